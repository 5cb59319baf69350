//! Promotion upon promotion, with a sidecar beside each of two members: they take turns.

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::gate::Gate;
use tests::postgres::{Cluster, Stop};
use tests::programs::Pitrd;
use tests::scope;
use tests::wait::Deadline;

use super::members::{await_base, forgetful, sidecar};
use super::promotion::{assert_timelines, await_timeline};

/// How one member's turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The machine dies; it comes back rewound.
    Killed,
    /// As an administrator changes over.
    Handed,
    /// The machine dies while the other's sidecar is away too.
    BothAway,
}

struct Member {
    cluster: Cluster,
    pitrd: Pitrd,
}

/// The other one becomes the primary, and this one its standby.
fn change_over(turn: Turn, from: &mut Member, to: &mut Member) -> Result<()> {
    to.cluster.await_replay_of(&from.cluster)?;
    if turn == Turn::BothAway {
        to.pitrd.kill9()?;
    }
    match turn {
        Turn::Handed => from.cluster.stop(Stop::Fast)?,
        Turn::Killed | Turn::BothAway => from.cluster.kill9()?,
    }
    to.cluster.promote()?;
    to.cluster.add_rows(500)?;
    if turn == Turn::BothAway {
        to.pitrd.start()?;
    }
    Ok(())
}

#[test]
fn the_sidecars_of_two_members_take_turns_over_many_promotions_without_a_gap() -> Result<()> {
    let builder = forgetful(scope::newest_postgres()).conf("wal_keep_size", "1GB");
    let primary = builder.start()?;
    primary.pgbench_init("postgres", 1)?;
    let standby = primary.standby()?;
    let archive = Archive::in_folder()?;
    let pitrd = sidecar(&primary, &archive, &[])?;
    await_base(&archive)?;
    let mut from = Member { pitrd, cluster: primary };
    let mut to = Member { pitrd: sidecar(&standby, &archive, &[])?, cluster: standby };
    let (mut gate, mut timeline) = (Gate::new(), 1);
    let turns = [Turn::Killed, Turn::Handed, Turn::BothAway];
    for turn in turns.into_iter().cycle().take(scope::scale(3, 12)) {
        let load = from.cluster.pgbench_start("postgres", 1)?;
        gate.note(&from.cluster)?;
        if turn == Turn::Handed {
            load.stop()?;
        }
        change_over(turn, &mut from, &mut to)?;
        timeline += 1;
        let promoted = Deadline::seconds(100);
        await_timeline(&mut to.pitrd, timeline)?;
        println!("{turn:?}: timeline {timeline} after {:.1} s", promoted.elapsed().as_secs_f64());
        from.cluster.rewind_to(&to.cluster)?;
        from.pitrd.wait("the other one to stand back", &Deadline::seconds(120), |pitrd| {
            let state = |name: &str| {
                let label = format!("state=\"{name}\"");
                pitrd.metrics().ok()?.labelled("pitr_archiver_state", &label)
            };
            Ok([state("waiting"), state("fenced")].contains(&Some(1.0)))
        })?;
        to.pitrd.wait_caught_up(&to.cluster)?;
        std::mem::swap(&mut from, &mut to);
    }
    gate.note(&from.cluster)?;
    from.pitrd.wait_caught_up(&from.cluster)?;
    ensure!(from.pitrd.is_running() && to.pitrd.is_running(), "a sidecar ended");
    ensure!(archive.log()?.gaps().is_empty(), "a gap");
    println!("{}", assert_timelines(&archive, &from.cluster, timeline)?);
    gate.pass(&from.cluster, &archive).map(drop)
}
