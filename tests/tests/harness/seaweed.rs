//! S3 as the other tests need it.

use anyhow::Result;
use aws_sdk_s3::primitives::ByteStream;
use tests::seaweed::{BUCKET, Identity, Seaweed};

#[tokio::test]
async fn an_object_that_exists_is_not_created_again() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let client = seaweed.client(Identity::Writer);
    let put = |body: &'static [u8]| {
        let put = client.put_object().bucket(BUCKET).key("harness/once").if_none_match("*");
        put.body(ByteStream::from_static(body)).send()
    };
    put(b"first").await?;
    let refused = put(b"second").await.expect_err("it exists");
    assert_eq!(refused.raw_response().map(|answer| answer.status().as_u16()), Some(412));
    assert_eq!(seaweed.get(BUCKET, "harness/once")?, b"first");
    assert_eq!(seaweed.keys(BUCKET, "harness/o")?, ["harness/once"]);
    Ok(())
}

#[tokio::test]
async fn keys_decide_what_may_be_done() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    for who in [Identity::Reader, Identity::Stranger] {
        let put = seaweed.client(who).put_object().bucket(BUCKET).key("harness/denied");
        let denied = put.body(ByteStream::from_static(b"x")).send().await.expect_err("no right");
        assert_eq!(denied.raw_response().map(|answer| answer.status().as_u16()), Some(403));
    }
    seaweed.client(Identity::Reader).list_objects_v2().bucket(BUCKET).send().await?;
    Ok(())
}

#[test]
fn objects_outlive_a_kill_and_a_pause() -> Result<()> {
    let seaweed = Seaweed::start_new()?;
    seaweed.put(BUCKET, "kept", b"bytes".to_vec())?;
    seaweed.kill9()?;
    assert!(!seaweed.is_running());
    seaweed.start()?;
    assert_eq!(seaweed.get(BUCKET, "kept")?, b"bytes");
    seaweed.pause()?;
    seaweed.resume()?;
    seaweed.delete(BUCKET, "kept")?;
    assert!(seaweed.get(BUCKET, "kept").is_err());
    Ok(())
}
