//! A shortcut into a filter of system calls: those that are open in all cases are found by halving, before the others are looked at one by one.
//!
//! A filter as seccompiler makes it compares a call's number with each listed one in turn. The kernel translates all of that when the filter is
//! installed, and tries it with each number that there is: for the usual list half a millisecond, a tenth of a jail's start.

use seccompiler::{BpfProgram, sock_filter};

// Operations of the kernel's classic packet filter, see linux/bpf_common.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// Where a filter finds the call's number.
const NUMBER: u32 = 0;
/// Stands for the distance to what comes after the shortcut, until that is known.
const ONWARDS: u32 = u32::MAX;

/// Puts the shortcut for these calls into a filter, after its look at the architecture. `None` if it does not begin as expected.
pub(crate) fn insert(filter: BpfProgram, open: &mut [u32]) -> Option<BpfProgram> {
    open.sort_unstable();
    // The architecture is loaded, compared, and answered with death if wrong; the number is loaded. It is still there after the shortcut.
    let codes: Vec<u16> = filter.iter().take(4).map(|instruction| instruction.code).collect();
    if codes != [LOAD, JUMP_IF_EQUAL, RETURN, LOAD] || filter[3].k != NUMBER {
        return None;
    }
    let mut shortcut = halve(&runs(open));
    let length = shortcut.len();
    for (place, instruction) in shortcut.iter_mut().enumerate() {
        if instruction.code == JUMP && instruction.k == ONWARDS {
            instruction.k = (length - place - 1) as u32;
        }
    }
    let mut whole = filter;
    whole.splice(4..4, shortcut);
    Some(whole)
}

/// First and last of each run of numbers that follow each other.
fn runs(sorted: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in sorted {
        match runs.last_mut() {
            Some((_, last)) if *number <= *last + 1 => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    runs
}

/// Code that allows a number in one of the runs, and goes onwards with any other.
fn halve(runs: &[(u32, u32)]) -> Vec<sock_filter> {
    match runs {
        [] => Vec::new(),
        [(first, last)] => vec![
            instruction(JUMP_IF_AT_LEAST, *first, 0, 2),
            instruction(JUMP_IF_AT_LEAST, *last + 1, 1, 0),
            instruction(RETURN, ALLOW, 0, 0),
            instruction(JUMP, ONWARDS, 0, 0),
        ],
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let upper_code = halve(upper);
            // The long way over the upper half is a jump of its own, as a comparison can skip no more than 255 instructions.
            let mut code = vec![instruction(JUMP_IF_AT_LEAST, upper[0].0, 1, 0), instruction(JUMP, upper_code.len() as u32, 0, 0)];
            code.extend(upper_code);
            code.extend(halve(lower));
            code
        }
    }
}

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    /// Runs a filter that looks at nothing but the number.
    fn answer(filter: &[sock_filter], number: u32) -> u32 {
        let (mut place, mut loaded) = (0, 0);
        loop {
            let at = &filter[place];
            let holds = match at.code {
                LOAD => {
                    loaded = if at.k == NUMBER { number } else { 7 };
                    None
                }
                JUMP => {
                    place += at.k as usize;
                    None
                }
                JUMP_IF_EQUAL => Some(loaded == at.k),
                JUMP_IF_AT_LEAST => Some(loaded >= at.k),
                RETURN => return at.k,
                other => panic!("{other:#x}"),
            };
            place += 1 + holds.map_or(0, |holds| usize::from(if holds { at.jt } else { at.jf }));
        }
    }

    fn with_shortcut(mut open: Vec<u32>) -> BpfProgram {
        let filter = vec![
            instruction(LOAD, 4, 0, 0),
            instruction(JUMP_IF_EQUAL, 7, 1, 0),
            instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
            instruction(LOAD, NUMBER, 0, 0),
            instruction(RETURN, REFUSE, 0, 0),
        ];
        insert(filter, &mut open).unwrap()
    }

    #[test]
    fn exactly_the_open_numbers_are_allowed() {
        let every_third: Vec<u32> = (0..200).map(|number| number * 3).collect();
        let scattered = vec![0, 1, 2, 3, 9, 17, 18, 56, 57, 58, 59, 231, 232, 257, 318, 435, 436, 451];
        for open in [vec![], vec![0], vec![59], vec![5, 4, 4, 3], scattered, every_third] {
            let filter = with_shortcut(open.clone());
            for number in (0..1000).chain([0x4000_0000, 0x4000_0027, u32::MAX - 1, u32::MAX]) {
                assert_eq!(answer(&filter, number) == ALLOW, open.contains(&number), "{number} of {open:?}");
            }
        }
    }

    #[test]
    fn the_whole_default_list_is_open_and_nothing_else() {
        let number = |name: &&str| std::str::FromStr::from_str(name).map(|call: syscalls::Sysno| call.id() as u32).unwrap();
        let open: Vec<u32> = bento_jail::default_syscalls().iter().map(number).collect();
        let filter = with_shortcut(open.clone());
        assert!((0..1000).all(|number| (answer(&filter, number) == ALLOW) == open.contains(&number)));
    }

    #[test]
    fn a_filter_that_begins_otherwise_is_left_alone() {
        assert!(insert(vec![instruction(RETURN, ALLOW, 0, 0)], &mut [1]).is_none());
    }
}
