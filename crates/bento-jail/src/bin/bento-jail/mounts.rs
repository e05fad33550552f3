//! The file system of a jail: an empty read-only root with the openings in it, and the scratch.
//!
//! Works with descriptors of mounts that are in no tree yet, so that no step depends on a path that somebody else can change, and nothing is
//! visible half made. Needs Linux 5.12.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use bento_jail::{Opening, SCRATCH, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags as Attr, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::refusal::{Refusal, Wall};
use crate::sys;

const WALL: &str = "mounts";

/// The root holds nothing but directories and empty files to mount on.
const ROOT_BYTES: u64 = 1 << 20;
const ROOT_INODES: u64 = 8192;

/// A copy of an opening's mount, read only, in no tree yet.
pub(crate) struct Tree<'a> {
    opening: &'a Opening,
    mount: OwnedFd,
    is_directory: bool,
}

/// Takes copies of all openings. Comes before the change of user, since the openings may be readable only by the user outside.
pub(crate) fn take(spec: &Spec) -> Result<Vec<Tree<'_>>, Refusal> {
    spec.openings.iter().map(take_one).collect()
}

fn take_one(opening: &Opening) -> Result<Tree<'_>, Refusal> {
    let doing = opening.outside.display();
    let mount = copy(&opening.outside).wall(WALL, &doing)?;
    sys::set_mount(mount.as_fd(), Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV, libc::AT_RECURSIVE)
        .wall(WALL, &doing)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&mount).wall(WALL, &doing)?.st_mode) {
        FileType::Directory => Ok(Tree { opening, mount, is_directory: true }),
        FileType::RegularFile => Ok(Tree { opening, mount, is_directory: false }),
        _ => Err(Refusal::new(WALL, format_args!("{doing} is neither a file nor a directory"))),
    }
}

/// Puts up root, openings and scratch, moves in, and lets go of the machine's own tree.
pub(crate) fn put_up(spec: &Spec, trees: Vec<Tree<'_>>) -> Result<(), Refusal> {
    let null = copy(Path::new("/dev/null")).wall(WALL, "/dev/null")?;
    sys::set_mount(null.as_fd(), Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC, 0).wall(WALL, "/dev/null")?;

    let sealed = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let root = tmpfs(ROOT_BYTES, ROOT_INODES, "0755", sealed).wall(WALL, "making the root")?;
    // Over the present root: that directory exists on every machine.
    attach(&root, CWD, Path::new("/")).wall(WALL, "placing the root")?;
    let mut root = Root { mount: root, made: BTreeSet::new() };
    for tree in trees {
        let inside = &tree.opening.inside;
        root.place(&tree.mount, relative(inside), tree.is_directory).wall(WALL, format_args!("opening {}", inside.display()))?;
    }
    root.place(&null, Path::new("dev/null"), false).wall(WALL, "/dev/null")?;
    let scratch = tmpfs(spec.scratch.bytes, spec.scratch.inodes, "0700", sealed).wall(WALL, "making the scratch")?;
    root.place(&scratch, relative(Path::new(SCRATCH)), true).wall(WALL, "placing the scratch")?;
    let root = root.mount;

    // With both names the same, the old root ends up on top of the new one, from where it is taken away.
    rustix::process::fchdir(&root).wall(WALL, "entering the root")?;
    rustix::process::pivot_root(".", ".").wall(WALL, "pivot_root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).wall(WALL, "letting go of the old root")?;
    sys::set_mount(root.as_fd(), sealed | Attr::MOUNT_ATTR_RDONLY, 0).wall(WALL, "making the root read only")?;
    rustix::process::chdir(SCRATCH).wall(WALL, "entering the scratch")
}

/// A copy of the mounts at and below a path.
fn copy(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
    )?)
}

/// A new tmpfs with bounds, in no tree yet.
fn tmpfs(bytes: u64, inodes: u64, mode: &str, attributes: Attr) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", bytes.to_string()), ("nr_inodes", inodes.to_string()), ("mode", mode.to_owned())] {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn attach(mount: &OwnedFd, directory: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", directory, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The new root, and which directories it has: asking it each time costs a system call for each part of each path.
struct Root {
    mount: OwnedFd,
    made: BTreeSet<PathBuf>,
}

impl Root {
    /// Makes a directory or an empty file to mount on, with the directories above it, and mounts there.
    fn place(&mut self, mount: &OwnedFd, path: &Path, is_directory: bool) -> io::Result<()> {
        let directory = if is_directory { Some(path) } else { path.parent() };
        let missing: Vec<_> = directory.into_iter().flat_map(Path::ancestors).take_while(|path| !self.made.contains(*path)).collect();
        // From the top down.
        for path in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
            rustix::fs::mkdirat(&self.mount, path, Mode::from_raw_mode(0o755))?;
            self.made.insert(path.to_owned());
        }
        if !is_directory {
            rustix::fs::openat(&self.mount, path, OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::from_raw_mode(0o444))?;
        }
        attach(mount, &self.mount, path)
    }
}

/// The path below the root. A spec holds absolute paths only.
fn relative(path: &Path) -> &Path {
    path.strip_prefix(Component::RootDir).unwrap_or(path)
}
