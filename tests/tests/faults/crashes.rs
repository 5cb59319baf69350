//! The database dies and comes back, again and again; its connections are cut.

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::gate::Gate;
use tests::programs::Pitrd;
use tests::scope;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::Deadline;

use super::kills::await_flow;
use super::members::{await_base, forgetful};

#[test]
fn a_server_that_is_killed_again_and_again_is_followed_at_the_very_byte() -> Result<()> {
    let cluster = forgetful(scope::newest_postgres()).start()?;
    cluster.pgbench_init("postgres", 1)?;
    let proxy = TcpProxy::start(cluster.port())?;
    let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", proxy.port());
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&url, archive.url()).args(["--flush", "100ms"]).start()?;
    await_base(&archive)?;
    let mut gate = Gate::new();
    for _ in 0..scope::scale(3, 20) {
        let load = cluster.pgbench_start("postgres", 2)?;
        await_flow(&mut pitrd)?;
        gate.note(&cluster)?;
        proxy.set(Behaviour::Cut);
        pitrd.wait_state("connecting", &Deadline::seconds(60))?;
        proxy.set(Behaviour::Pass);
        await_flow(&mut pitrd)?;
        cluster.kill9()?;
        drop(load);
        pitrd.wait_state("connecting", &Deadline::seconds(60))?;
        cluster.start()?;
        cluster.add_rows(100)?;
        pitrd.wait_caught_up(&cluster)?;
    }
    gate.note(&cluster)?;
    pitrd.wait_caught_up(&cluster)?;
    ensure!(proxy.faults() > 0, "no connection was cut");
    ensure!(pitrd.log().matches("continuing").count() == 1, "it began anew: {}", pitrd.log());
    let log = archive.log()?;
    ensure!(log.gaps().is_empty(), "a gap");
    println!("{}; {}", log.assert_unbroken()?, log.assert_equals_files(&cluster.wal_dir())?);
    gate.pass(&cluster, &archive).map(drop)
}
