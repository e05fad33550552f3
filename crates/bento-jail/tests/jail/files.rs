//! What can be read and written.

use std::path::PathBuf;

use bento_jail::Opening;

use crate::harness::{said, said_in, spec};

#[test]
fn the_machine_cannot_be_read_and_the_openings_can() {
    let said = said(
        "
for path in '/etc/passwd', '/proc/self/status', '/proc/1/environ', '/sys/kernel', '/root', '/home', '/usr/bin/env', '/var', '/dev/mem', '/run':
    attempt(path, lambda: os.stat(path))
for path in sys.executable, os.__file__, '/dev/null':
    attempt('open', lambda: open(path, 'rb').close())
attempt('list', lambda: os.listdir(os.path.dirname(os.__file__)))
attempt('root', lambda: os.listdir('/'))
attempt('up', lambda: os.listdir('/tmp/../..'))
",
    );
    assert!(said[..10].iter().all(|line| line.ends_with(" ENOENT")), "{said:?}");
    // That the root cannot be listed is Landlock's doing alone.
    assert_eq!(said[10..], ["open ok", "open ok", "open ok", "list ok", "root EACCES", "up EACCES"]);
}

#[test]
fn only_the_scratch_can_be_written() {
    let said = said(
        "
def write(path, mode='w'):
    open(path, mode).close()
library = os.path.dirname(os.__file__)
for path in '/new', '/dev/new', library + '/new.py', '/usr/lib/new':
    attempt('make', lambda: write(path))
for path in os.__file__, sys.executable:
    attempt('change', lambda: write(path, 'ab'))
    attempt('truncate', lambda: os.truncate(path, 0))
    attempt('remove', lambda: os.unlink(path))
    attempt('chmod', lambda: os.chmod(path, 0o777))
attempt('mkdir', lambda: os.mkdir('/usr/lib/d'))
attempt('link', lambda: os.link(os.__file__, '/tmp/os.py'))
attempt('null', lambda: open('/dev/null', 'w').write('x'))
attempt('own', lambda: write('/tmp/new'))
attempt('own directory', lambda: os.mkdir('/tmp/d'))
attempt('own rename', lambda: os.rename('/tmp/new', '/tmp/d/new'))
attempt('own symlink', lambda: os.symlink('/etc/passwd', '/tmp/l'))
attempt('through it', lambda: write('/tmp/l', 'r'))
attempt('own removal', lambda: os.unlink('/tmp/d/new'))
say(os.getcwd())
",
    );
    assert!(said[..13].iter().all(|line| line.ends_with(" EROFS") || line.ends_with(" EACCES")), "{said:?}");
    assert!(["link EXDEV", "link EPERM", "link EACCES", "link EROFS"].contains(&said[13].as_str()), "{said:?}");
    assert_eq!(
        said[14..],
        ["null ok", "own ok", "own directory ok", "own rename ok", "own symlink ok", "through it ENOENT", "own removal ok", "/tmp"]
    );
}

#[test]
fn the_scratch_is_bounded_in_bytes_and_inodes() {
    let said = said(
        "
def fill():
    with open('/tmp/big', 'wb') as file:
        while True:
            file.write(bytes(65536))
            file.flush()
attempt('within', lambda: open('/tmp/small', 'wb').write(bytes(2 << 20)))
os.unlink('/tmp/small')
attempt('beyond', fill)
say(os.path.getsize('/tmp/big') <= 4 << 20)
os.unlink('/tmp/big')
attempt('sparse', lambda: os.truncate(os.open('/tmp/sparse', os.O_CREAT | os.O_RDWR), 1 << 40))
os.unlink('/tmp/sparse')
def files(count):
    for number in range(count):
        open(f'/tmp/{number}', 'w').close()
attempt('some files', lambda: files(40))
attempt('too many files', lambda: files(100))
",
    );
    assert_eq!(said, ["within ok", "beyond ENOSPC", "True", "sparse EFBIG", "some files ok", "too many files ENOSPC"]);
}

#[test]
fn nothing_in_the_scratch_can_be_run_or_gains_rights() {
    let mut spec = spec(
        "
import shutil, mmap
shutil.copyfile(sys.executable, '/tmp/python')
attempt('setuid bit', lambda: os.chmod('/tmp/python', 0o6755))
attempt('run', lambda: os.execv('/tmp/python', ['python']))
attempt('run opened', lambda: os.execv('/opened/su', ['su']))
attempt('read opened', lambda: open('/opened/su', 'rb').read(4))
code = os.open('/tmp/python', os.O_RDONLY)
attempt('map as code', lambda: mmap.mmap(code, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))
attempt('map as data', lambda: mmap.mmap(code, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ))
for path in '/tmp', '/', '/opened', os.path.dirname(os.__file__):
    flags = os.statvfs(path).f_flag
    say(bool(flags & os.ST_NOSUID), bool(flags & os.ST_NODEV), bool(flags & os.ST_RDONLY))
attempt('fifo', lambda: os.mkfifo('/tmp/fifo'))
attempt('socket', lambda: os.mknod('/tmp/socket', 0o140666))
attempt('device', lambda: os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1)))
",
    );
    let directory = tempfile::tempdir().unwrap();
    let su = directory.path().join("su");
    std::fs::copy("/bin/sh", &su).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(&su, mode(0o6755)).unwrap();
    std::fs::set_permissions(directory.path(), mode(0o755)).unwrap();
    spec.openings.push(Opening { outside: directory.path().to_owned(), inside: PathBuf::from("/opened") });
    spec.scratch.bytes = 16 << 20;
    // Without these, seccomp would answer before Landlock, and nothing could be asked of the mounts.
    spec.syscalls.extend(["mknod", "mknodat", "statfs"].map(str::to_owned));
    assert_eq!(
        said_in(&spec),
        [
            "setuid bit ok",
            "run EPERM",
            "run opened EPERM",
            "read opened ok",
            "map as code EPERM",
            "map as data ok",
            "True True False",
            "True True True",
            "True True True",
            "True True True",
            "fifo EACCES",
            "socket EACCES",
            "device EACCES",
        ]
    );
}

/// The node keeps its files in directories of its own; what leads to an opening does not matter inside.
#[test]
fn an_opening_in_a_private_directory_can_be_read() {
    let private = tempfile::tempdir().unwrap();
    let open = private.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::write(open.join("file"), "text").unwrap();
    std::fs::write(private.path().join("beside"), "secret").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(private.path(), mode(0o700)).unwrap();
    std::fs::set_permissions(&open, mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../beside", open.join("out")).unwrap();
    let mut spec = spec(
        "
attempt('file', lambda: say(open('/opened/file').read()))
attempt('beside', lambda: open('/opened/../beside'))
attempt('link out', lambda: open('/opened/out'))
attempt('write', lambda: open('/opened/new', 'w'))
",
    );
    spec.openings.push(Opening { outside: open, inside: PathBuf::from("/opened") });
    assert_eq!(said_in(&spec), ["text", "file ok", "beside ENOENT", "link out ENOENT", "write EROFS"]);
}
