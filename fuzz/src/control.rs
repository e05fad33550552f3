//! Replies of a control port: the same wherever they are cut, and every reading of them is safe.

use bento_tor::{Bootstrap, Descriptor, Event, fuzzing};

/// Keys that Bento asks for.
const KEYS: &[&str] = &["version", "status/bootstrap-phase", "exit-policy/full", "PROGRESS", "METHODS"];

pub fn run(data: &[u8]) {
    let Some((cuts, bytes)) = data.split_first_chunk::<4>() else { return };
    let pieces = cuts.map(|cut| usize::from(cut) + 1);
    let at_once = fuzzing::replies(bytes, &[]);
    let cut = fuzzing::replies(bytes, &pieces);
    match (&at_once, &cut) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "cut by {pieces:?}"),
        (Err(_), Err(_)) => {}
        _ => panic!("taken when cut one way, refused when cut another: {pieces:?}"),
    }
    for reply in at_once.iter().flatten() {
        assert!(!reply.lines.is_empty() && reply.lines.iter().all(|line| line.code < 1000));
        assert!(reply.lines.iter().all(|line| !line.text.contains('\n')));
        assert_eq!(reply.is_good(), reply.code() / 100 == 2);
        assert_eq!(fuzzing::is_event(reply), reply.lines[0].code / 100 == 6);
        for key in KEYS {
            let _ = fuzzing::readings(reply, key);
        }
        if let Some(told) = Descriptor::parse(&Event::from(reply.clone())) {
            let id = told.address.strip_suffix(".onion").expect("an address");
            assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{told:?}");
        }
        for line in &reply.lines {
            if let Some(bootstrap) = Bootstrap::parse(&line.text) {
                assert!(bootstrap.percent <= 100 && bootstrap.is_done() == (bootstrap.percent == 100));
            }
            if let Some(back) = fuzzing::quoted(&line.text) {
                assert_eq!(back, line.text);
            }
        }
    }
    // Lines of data count as much as they came with, and not one more.
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    let held: usize = at_once
        .iter()
        .flatten()
        .flat_map(|reply| &reply.lines)
        .map(|line| 1 + line.data.as_deref().map_or(0, |data| data.lines().count()))
        .sum();
    assert!(held <= lines);
}
