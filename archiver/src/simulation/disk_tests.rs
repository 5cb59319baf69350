//! What the simulated disk keeps, and what it does not.

use rand::SeedableRng;

use super::*;

fn booted() -> SimDisk {
    SimDisk::default().boot(Arc::new(Fate::new(u64::MAX, 0)), 1 << 20)
}

fn crash(disk: &SimDisk, seed: u64) {
    disk.crash(&mut StdRng::seed_from_u64(seed));
}

#[test]
fn what_was_fsynced_with_its_folder_is_there_after_every_crash() {
    for seed in 0..50 {
        let disk = booted();
        let mut file = disk.create_new(Path::new("d/a")).expect("created");
        file.write_all(b"abc").expect("written");
        file.sync().expect("synced");
        disk.sync_dir(Path::new("d")).expect("synced");
        file.write_all(b"def").expect("written");
        crash(&disk, seed);
        assert!(disk.read(Path::new("d/a")).expect("there").starts_with(b"abc"), "{seed}");
    }
}

#[test]
fn what_was_not_fsynced_is_lost_in_some_crashes() {
    let (mut names, mut bytes) = (0, 0);
    for seed in 0..50 {
        let disk = booted();
        let mut file = disk.create_new(Path::new("d/a")).expect("created");
        file.write_all(b"abc").expect("written");
        crash(&disk, seed);
        match disk.read(Path::new("d/a")) {
            Err(_) => names += 1,
            Ok(left) if left != b"abc" => bytes += 1,
            Ok(_) => {}
        }
    }
    assert!(names > 0 && bytes > 0, "{names} names, {bytes} contents");
}

#[test]
fn a_second_fsync_keeps_nothing_of_what_the_first_one_lost() {
    let disk = booted();
    let mut file = disk.create_new(Path::new("d/a")).expect("created");
    disk.sync_dir(Path::new("d")).expect("synced");
    file.write_all(b"abc").expect("written");
    disk.fail_syncs(1);
    assert!(file.sync().is_err());
    file.sync().expect("it lies");
    crash(&disk, 1);
    assert_eq!(disk.read(Path::new("d/a")).expect("there"), b"\0\0\0");
}
