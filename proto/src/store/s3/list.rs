//! Listings, in the order of the keys' bytes also where the store has another one.
//!
//! AWS lists by key bytes. Stores that keep folders (SeaweedFS, directory buckets) list `a/b` before
//! `a-b`. The first listing that shows it is done again the slow way, and so are all that follow.
//! Until one shows it, `after` may pass over keys where one folder's name begins a sibling's that
//! goes on with a byte below the slash: the archive's layout has no such names.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output as Listing;

use super::super::{Key, LIST_PAGE_MAX, Object, Page, StoreError};
use super::S3Store;

impl S3Store {
    pub(super) async fn list_in_order(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        if !self.unordered.load(Ordering::Relaxed) {
            let page = self.list_as_it_comes(prefix, after).await?;
            let keys = || page.objects.iter().map(|object| object.key.as_str());
            if after.into_iter().chain(keys()).is_sorted_by(|a, b| a < b) {
                return Ok(page);
            }
            self.unordered.store(true, Ordering::Relaxed);
            tracing::warn!(archive = %self.short, "this store does not list keys in the order of \
                their bytes; listings are sorted here, at the price of more requests");
        }
        self.list_sorted(prefix, after).await
    }

    pub(super) async fn folder_names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let answer = self.page(folder, None, token, Some("/")).await?;
            found.extend(answer.common_prefixes().iter().filter_map(|below| {
                let name = self.relative(below.prefix()?)?.strip_prefix(folder)?;
                Some(name.strip_suffix('/')?.to_owned()).filter(|name| !name.is_empty())
            }));
            token = answer.next_continuation_token;
            if answer.is_truncated != Some(true) || token.is_none() {
                found.sort_by_cached_key(|name| format!("{name}/"));
                return Ok(found);
            }
        }
    }

    /// One page of keys below `prefix`; with a delimiter also of the folders among them.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<String>,
        delimiter: Option<&str>,
    ) -> Result<Listing, StoreError> {
        let shown = format!("{prefix}*");
        let asked = self.asked("list", &shown);
        let answer = self
            .call(&asked, 0, |client| {
                let request = client
                    .list_objects_v2()
                    .bucket(&self.address.bucket)
                    .prefix(self.full(prefix))
                    .set_start_after(after.map(|after| self.full(after)))
                    .set_continuation_token(token.clone())
                    .set_delimiter(delimiter.map(str::to_owned));
                async move { request.send().await }
            })
            .await?;
        answer.map_err(|refused| asked.failed(&refused))
    }

    async fn list_as_it_comes(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        let mut token = None;
        loop {
            let answer = self.page(prefix, after, token, None).await?;
            let objects: Vec<Object> = self.objects(&answer).collect();
            token = answer.next_continuation_token;
            let more = answer.is_truncated == Some(true) && token.is_some();
            // A page of nothing but strangers is no end.
            if !objects.is_empty() || !more {
                return Ok(Page { objects, more });
            }
        }
    }

    /// Reads everything below `prefix` and keeps the page that comes first after `after`.
    async fn list_sorted(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let mut first = BTreeMap::new();
        let mut token = None;
        loop {
            let answer = self.page(prefix, None, token, None).await?;
            for object in self.objects(&answer) {
                if after.is_none_or(|after| object.key.as_str() > after) {
                    first.insert(object.key, object.bytes);
                    if first.len() > LIST_PAGE_MAX + 1 {
                        first.pop_last();
                    }
                }
            }
            token = answer.next_continuation_token;
            if answer.is_truncated != Some(true) || token.is_none() {
                break;
            }
        }
        let more = first.len() > LIST_PAGE_MAX;
        let objects = first.into_iter().map(|(key, bytes)| Object { key, bytes });
        Ok(Page { objects: objects.take(LIST_PAGE_MAX).collect(), more })
    }

    fn objects<'a>(&'a self, answer: &'a Listing) -> impl Iterator<Item = Object> + 'a {
        answer.contents().iter().filter_map(|object| {
            let key = Key::parse(self.relative(object.key()?)?)?;
            // An object is never hidden because its size is not said.
            let bytes = object.size().and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
            Some(Object { key, bytes })
        })
    }

    /// A key of the bucket as a key of the archive.
    fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        if self.address.prefix.is_empty() {
            return Some(full);
        }
        full.strip_prefix(&self.address.prefix)?.strip_prefix('/')
    }
}
