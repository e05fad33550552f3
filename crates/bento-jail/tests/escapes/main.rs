//! The escape battery: attacks on the walls, each in a jail of its own with a watchdog outside, each beside an act that must work.
//!
//! The attacks are Python files in `attacks/`, so that other launchers can be measured by them; its `README.md` has the protocol. Here each is
//! run in a jail, once more with system calls opened for it where there is a second wall to attack, and where it is sure to escape without
//! walls also without any: that shows that it is an attack.
//!
//! All of it is run as the present user, and if that is root once more as an ordinary one.

// So that clippy knows the helpers for tests as well, where `unwrap` is as it should be.
#![cfg(test)]

mod battery;
#[path = "../shared/ordinary.rs"]
mod ordinary;
#[path = "../shared/start.rs"]
mod start;

/// A module of tests for each family, one test for each attack of it.
macro_rules! families {
    ($($family:ident: $($test:ident $name:literal)*;)*) => {
        $(mod $family {
            $(#[test]
            fn $test() {
                crate::battery::try_out($name, stringify!($family), include_str!(concat!("attacks/", $name, ".py")));
            })*
        })*

        #[test]
        fn every_attack_is_tried() {
            let tried = [$($($name),*),*];
            let mut known: Vec<&str> = crate::battery::table().map(|attack| attack.name).collect();
            assert_eq!(known, tried, "main.rs and attacks/table name the same attacks in the same order");
            // Beside them are the prelude, the table and the README. A copy of this test binary has no sources beside it.
            if let Ok(files) = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/escapes/attacks")) {
                known.push("prelude");
                known.sort_unstable();
                let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
                let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".py").map(str::to_owned)).collect();
                names.sort_unstable();
                assert_eq!(names, known);
            }
        }
    };
}

families! {
    files:
        read_machine "read-machine"
        write_machine "write-machine"
        change_openings "change-openings"
        follow_links "follow-links"
        climb_out "climb-out"
        open_by_handle "open-by-handle"
        make_devices "make-devices"
        open_devices "open-devices"
        run_own_files "run-own-files"
        gain_rights "gain-rights"
        find_writable "find-writable"
        file_locks "file-locks"
        busy_disk "busy-disk"
        watch_files "watch-files";
    proc:
        read_proc_self "read-proc-self"
        write_proc "write-proc"
        read_sys "read-sys"
        spy_by_proc "spy-by-proc"
        mount_proc "mount-proc"
        machine_facts "machine-facts";
    processes:
        fork "fork"
        execute "execute"
        ptrace "ptrace"
        process_memory "process-memory"
        signal "signal"
        process_handles "process-handles"
        schedule_others "schedule-others"
        raise_priority "raise-priority"
        raise_limits "raise-limits"
        untie "untie"
        become_root "become-root"
        outlive "outlive";
    kernel:
        keys "keys"
        io_uring "io-uring"
        userfaultfd "userfaultfd"
        memory_files "memory-files"
        bpf "bpf"
        perf "perf"
        nested_namespaces "nested-namespaces"
        enter_namespaces "enter-namespaces"
        mount "mount"
        unmount "unmount"
        chroot "chroot"
        administer "administer"
        kernel_log "kernel-log"
        other_architecture "other-architecture"
        other_spellings "other-spellings"
        shared_memory "shared-memory"
        filters "filters"
        terminals "terminals"
        page_tricks "page-tricks"
        segments "segments";
    network:
        tcp "tcp"
        fast_open "fast-open"
        metadata "metadata"
        raw_sockets "raw-sockets"
        netlink "netlink"
        odd_sockets "odd-sockets"
        abstract_sockets "abstract-sockets"
        named_sockets "named-sockets"
        serve "serve"
        resolve "resolve"
        interfaces "interfaces";
    descriptors:
        inherited "inherited"
        environment "environment"
        reopen "reopen"
        signals_by_descriptor "signals-by-descriptor"
        in_flight "in-flight"
        socket_options "socket-options";
    bombs:
        heap "heap"
        mappings "mappings"
        locked_memory "locked-memory"
        stack "stack"
        threads "threads"
        fork_bomb "fork-bomb"
        descriptors "descriptors"
        inodes "inodes"
        disk "disk"
        cpu "cpu"
        core_dump "core-dump"
        pipes "pipes"
        timers "timers";
}
