//! The network between a sidecar and its replica set is cut, in every way that a network has.

use anyhow::{Result, ensure};
use rand::Rng;
use tests::archive::Archive;
use tests::mongod::{ArchivedOplog, Load, Node, ReplicaSet};
use tests::scope;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use super::kills::await_flow;
use crate::flow::oplog_capture::{more, pitrd};
use crate::flow::{changes_capture, oplog_capture};

/// Waits until the archive holds what is written now.
type AwaitArchived = fn(&ReplicaSet, &Archive) -> Result<ArchivedOplog>;
/// Compares it with what a reader sees whose network is whole.
type Compare = fn(&ArchivedOplog, &Node) -> Result<String>;

fn through_cuts(mode: &str, await_archived: AwaitArchived, compare: Compare) -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let proxy = TcpProxy::start(set.primary()?.port())?;
    // The name under which the member knows itself would lead past the proxy.
    let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
    let arguments = ["--source-mode", mode, "--flush", "100ms"];
    let mut pitrd = pitrd(&url, &archive).args(arguments).start()?;
    let load = Load::start(&set, 2)?;
    let rounds = scope::scale(6, 30);
    for round in 0..rounds {
        await_flow(&mut pitrd)?;
        let (cut, times) = match round % 3 {
            0 => (Behaviour::Cut, 3),
            // Within an answer, to each connection that is tried.
            1 => (Behaviour::CutAfterDown(rand::rng().random_range(1..20_000)), 3),
            // Nobody is told: nothing comes through any more.
            _ => (Behaviour::Blackhole, 1),
        };
        let before = proxy.faults();
        proxy.set(cut);
        wait::until(&Deadline::seconds(120), "the cut to be felt", || {
            ensure!(pitrd.is_running(), "{}", pitrd.log());
            Ok((proxy.faults() >= before + times).then_some(()))
        })?;
        // The set is whole meanwhile.
        more(&load, 50)?;
        proxy.set(Behaviour::Pass);
    }
    await_flow(&mut pitrd)?;
    load.stop();
    let archived = await_archived(&set, &archive)?;
    let found = compare(&archived, set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    ensure!(pitrd.log().contains("source away"), "it felt nothing: {}", pitrd.log());
    println!("{rounds} cuts, {} connections: {found}", proxy.connections());
    Ok(())
}

#[test]
fn a_network_that_is_cut_costs_an_archived_oplog_nothing() -> Result<()> {
    through_cuts("oplog", oplog_capture::await_archived, ArchivedOplog::assert_is_of)
}

#[test]
fn a_network_that_is_cut_costs_an_archived_change_stream_nothing() -> Result<()> {
    let compare = ArchivedOplog::assert_is_the_change_stream_of;
    through_cuts("change-stream", changes_capture::await_archived, compare)
}
