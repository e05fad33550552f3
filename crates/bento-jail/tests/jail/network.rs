//! Sockets: those handed over work, and no other reaches anything.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::harness::{Jail, said, said_in, spec};

#[test]
fn a_socket_handed_over_works_and_the_network_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let jail = &mut Jail::start(&spec(&format!(
        "
_, (stream,), _, _ = socket.recv_fds(api, 10, 1)
stream = socket.socket(fileno=stream)
stream.sendall(b'from inside')
say(stream.recv(100).decode())
attempt('connect', lambda: socket.create_connection(('127.0.0.1', {port}), 2))
attempt('listen', lambda: socket.create_server(('127.0.0.1', 0)))
attempt('resolve', lambda: socket.getaddrinfo('localhost', {port}))
"
    )));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    jail.hand_over(theirs.as_fd());
    let mut heard = [0; 11];
    ours.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"from inside");
    ours.write_all(b"from outside").unwrap();
    let (said, _) = jail.finish();
    assert_eq!(said[..3], ["from outside", "connect EPERM", "listen EPERM"]);
    // The outside can connect, so it was not for want of a listener.
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
}

#[test]
fn only_local_sockets_can_be_made() {
    let said = said(
        "
for family, kind in (socket.AF_INET, 1), (socket.AF_INET, 2), (socket.AF_INET6, 1), (socket.AF_NETLINK, 3), (socket.AF_VSOCK, 1), (socket.AF_PACKET, 3), (socket.AF_ALG, 5), (socket.AF_CAN, 3), (31, 1):
    attempt('family', lambda: socket.socket(family, kind, 0).close())
attempt('raw', lambda: socket.socket(socket.AF_UNIX, socket.SOCK_RAW).close())
attempt('pair of another', lambda: socket.socketpair(socket.AF_INET))
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM:
    attempt('pair', lambda: [end.close() for end in socket.socketpair(socket.AF_UNIX, kind)])
a, b = socket.socketpair()
a.setblocking(False)
a.settimeout(5)
a.sendall(b'x')
say(b.recv(1))
attempt('filter', lambda: a.setsockopt(socket.SOL_SOCKET, 26, bytes(16)))
attempt('peer process', lambda: a.getsockopt(socket.SOL_SOCKET, 77, 4))
attempt('buffer', lambda: a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536))
attempt('no delay', lambda: a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
attempt('descriptors', lambda: socket.send_fds(a, [b'x'], [0]))
attempt('out of band', lambda: a.send(b'x', socket.MSG_OOB))
attempt('hear out of band', lambda: b.recv(1, socket.MSG_OOB))
attempt('no wait', lambda: a.send(b'x', socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))
attempt('to a name', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '\\0name'))
",
    );
    assert!(said[..11].iter().all(|line| line.ends_with(" EPERM")), "{said:?}");
    assert_eq!(
        said[11..],
        [
            "pair ok",
            "pair ok",
            "pair ok",
            "b'x'",
            "filter EPERM",
            "peer process EPERM",
            "buffer ok",
            "no delay ENOTSUP",
            "descriptors EPERM",
            "out of band EPERM",
            "hear out of band EPERM",
            "no wait ok",
            "to a name EPERM"
        ]
    );
}

/// Even with the calls open, the network namespace (and Landlock, where it knows them) keeps abstract sockets apart.
#[test]
fn abstract_sockets_of_the_outside_are_not_there() {
    let name = format!("bento-jail-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    drop(UnixStream::connect_addr(&address).unwrap());
    drop(listener.accept().unwrap());
    let mut spec = spec(&format!(
        "
def connect(name):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect('\\0' + name)
attempt('outside', lambda: connect('{name}'))
server = socket.socket(socket.AF_UNIX)
server.bind('\\0own')
server.listen()
attempt('own', lambda: connect('own'))
attempt('named', lambda: socket.socket(socket.AF_UNIX).bind('/tmp/socket'))
"
    ));
    spec.syscalls.extend(["connect", "bind", "listen", "accept4"].map(str::to_owned));
    let said = said_in(&spec);
    assert!(["outside ECONNREFUSED", "outside EPERM"].contains(&said[0].as_str()), "{said:?}");
    // No socket file either: that is Landlock's doing.
    assert_eq!(said[1..], ["own ok", "named EACCES"]);
    assert_eq!(
        said_in(&{
            let mut spec = spec;
            spec.syscalls.retain(|name| name != "connect");
            spec
        })[0],
        "outside EPERM"
    );
}
