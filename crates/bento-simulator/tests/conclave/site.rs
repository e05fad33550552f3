//! A website of one page, over TLS, on this machine.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
};

/// What the host would like to know: which page,
pub(crate) const PATH: &str = "clinic/appointment-of-a-patient";

/// and what it says.
pub(crate) const TEXT: &str = "The result of the examination is nobody's business";

const SERVER: &str = r#"
import http.server, ssl, sys, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", file=sys.stderr, flush=True)
        body = b"<!doctype html><title>Page</title><p>" + sys.argv[3].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], file=sys.stderr, flush=True)
sys.stdin.read()
"#;

/// The one site of all tests.
pub(crate) struct Site {
    pub(crate) port: u16,
    /// What a function must trust to believe it.
    pub(crate) certificate: PathBuf,
    said: Arc<Mutex<usize>>,
    /// It ends with this process, whose end of the pipe this is.
    _stdin: ChildStdin,
}

impl Site {
    /// How often a page was asked for.
    pub(crate) fn asked(&self) -> usize {
        *self.said.lock().unwrap()
    }
}

pub(crate) fn shared() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(start)
}

fn start() -> Site {
    // Kept: functions read the certificate as long as tests run.
    let directory = tempfile::tempdir().unwrap().keep();
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let (pem, key) = (directory.join("site.pem"), directory.join("key.pem"));
    fs::write(&pem, certificate.pem()).unwrap();
    fs::File::create(&key).unwrap().write_all(pair.serialize_pem().as_bytes()).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", SERVER]).arg(&pem).arg(&key).arg(TEXT);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap().parse().unwrap();
    let said = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&said);
    let stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        lines.map_while(Result::ok).filter(|line| line == "asked").for_each(|_| *counted.lock().unwrap() += 1);
        child.wait()
    });
    Site { port, certificate: pem, said, _stdin: stdin }
}
