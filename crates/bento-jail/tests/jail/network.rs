//! Sockets: those handed over work. What reaches nothing is among the escapes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::harness::{spec, start};

#[test]
fn a_socket_handed_over_works_and_the_network_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let jail = &mut start(&spec(&format!(
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
