//! Who the function is.

use crate::harness::said;

#[test]
fn the_environment_is_the_specs_and_nothing_tells_the_machine() {
    let said = said(
        "
say(sorted(os.environ))
say(os.uname().nodename, os.getuid(), os.getgid(), os.getgroups() == [] or set(os.getgroups()) <= {65534, 1000})
",
    );
    assert_eq!(said, ["['HOME', 'LANG', 'MALLOC_ARENA_MAX']", "bento 1000 1000 True"]);
}
