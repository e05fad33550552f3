//! What functions are made of must work: threads, asyncio, ssl, sqlite3, and the packages of an image.

use std::path::{Path, PathBuf};

use bento_jail::{Opening, python_openings};

use crate::harness::{PYTHON, said, said_in, spec};

#[test]
fn the_standard_library_works() {
    let said = said(
        "
import asyncio, ssl, sqlite3, threading, tempfile, zlib, bz2, lzma, hashlib, json, uuid, random, secrets, decimal, mmap, time, email, http.client, html.parser, urllib.request, select, selectors, logging, queue, concurrent.futures, shutil, gzip, zipfile, tarfile, io, datetime, socket
say('imported')
async def main():
    reader, writer = await asyncio.open_connection(sock=a)
    writer.write(b'ping')
    await writer.drain()
    answer = await asyncio.wait_for(reader.readexactly(4), 5)
    inner = await asyncio.to_thread(lambda: 'thread')
    writer.close()
    return answer, inner
a, b = socket.socketpair()
def echo():
    b.sendall(b.recv(4))
thread = threading.Thread(target=echo)
thread.start()
say(asyncio.run(main()))
thread.join()
base = sqlite3.connect('/tmp/base.sqlite')
base.execute('pragma journal_mode=wal')
base.execute('create table t (n integer)')
base.executemany('insert into t values (?)', [(n,) for n in range(1000)])
base.commit()
say(base.execute('select sum(n) from t').fetchone())
base.close()
with tempfile.TemporaryDirectory() as directory:
    with zipfile.ZipFile(directory + '/a.zip', 'w') as archive:
        archive.writestr('a/b', b'x' * 1000, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(directory + '/a.zip') as archive:
        archive.extractall(directory)
    shutil.copy(directory + '/a/b', directory + '/c')
    say(os.path.getsize(directory + '/c'))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    say(sum(pool.map(lambda n: n * n, range(10))))
mapped = mmap.mmap(-1, 4096); mapped[:1] = b'x'; mapped.close()
context = ssl.create_default_context()
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    context.wrap_bio(incoming, outgoing, server_hostname='example.org').do_handshake()
except ssl.SSLWantReadError:
    say('hello', outgoing.pending > 100)
say(len(secrets.token_bytes(8)), len(str(uuid.uuid4())), decimal.Decimal(1) / 4)
",
    );
    assert_eq!(said, ["imported", "(b'ping', 'thread')", "(499500,)", "1000", "285", "hello True", "8 36 0.25"]);
}

#[test]
fn packages_with_extension_modules_get_their_libraries() {
    let source = Path::new("/usr/lib/python3/dist-packages");
    let names = [
        "lxml",
        "brotli.py",
        "_brotli.cpython-311-x86_64-linux-gnu.so",
        "html5lib",
        "six.py",
        "webencodings",
        "requests",
        "urllib3",
        "idna",
        "certifi",
        "chardet",
        "charset_normalizer",
    ];
    let present: Vec<PathBuf> = names.iter().map(|name| source.join(name)).filter(|path| path.exists()).collect();
    if !["lxml", "html5lib", "requests"].iter().all(|name| source.join(name).exists()) {
        println!("skipped: this machine has not all of lxml, html5lib and requests");
        return;
    }
    let mut spec = spec(
        "
sys.path.append('/packages')
import lxml.html, lxml.etree, html5lib, requests, urllib3
page = lxml.html.fromstring('<p>a<b>c</b>')
say(page.xpath('string(//b)'))
sheet = lxml.etree.XSLT(lxml.etree.XML('<x:stylesheet version=\"1.0\" xmlns:x=\"http://www.w3.org/1999/XSL/Transform\"><x:template match=\"/\"><d/></x:template></x:stylesheet>'))
say(sheet(page).getroot().tag)
say(html5lib.parse('<p>a').tag[-4:])
say(requests.Session().headers['Accept'])
",
    );
    spec.openings = python_openings(Path::new(PYTHON), &present).unwrap();
    assert!(spec.openings.iter().any(|opening| opening.inside.to_string_lossy().contains("libxslt")));
    for path in present {
        let inside = Path::new("/packages").join(path.file_name().unwrap());
        spec.openings.push(Opening { outside: path, inside });
    }
    assert_eq!(said_in(&spec), ["c", "d", "html", "*/*"]);
}
