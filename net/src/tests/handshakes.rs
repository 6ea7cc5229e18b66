//! Single handshakes: which nodes are refused, what each side reports, certificates.

use tokio::io::DuplexStream;

use super::*;
use crate::handshake::HandshakeError;
use crate::tls::{Certificates, Configs};
use crate::transport::Duplex;
use crate::{NotSent, Refusal, RequestError, StartError};

impl Duplex for DuplexStream {
    fn set_user_timeout(&self, _timeout: Duration) -> std::io::Result<()> {
        Ok(())
    }
}

type Tls = Option<Arc<Configs>>;
type Sides = (Result<(), HandshakeError>, Result<(), HandshakeError>);

/// `a` dials `b`; returns the result of each side.
async fn handshake((a, a_tls): (&Identity, Tls), (b, b_tls): (&Identity, Tls), to: &str) -> Sides {
    let (here, there) = tokio::io::duplex(1 << 20);
    let to = name(to);
    let fine = |_: &Identity| Ok(());
    let dialled = handshake::dial(Box::new(here), a_tls, Class::Requests, a, &to, fine);
    let accepted = handshake::accept(Box::new(there), b_tls, b, |_, _| Ok(()));
    let both = async { tokio::join!(dialled, accepted) };
    let (dialled, accepted) = soon("a handshake", both).await;
    (dialled.map(drop), accepted.map(drop))
}

fn tls(bundles: &Bundles, node: &str) -> Tls {
    Some(Certificates::load(bundles.files(node), name(node)).unwrap().current())
}

#[tokio::test]
async fn nodes_of_one_authority_shake_hands() {
    let bundles = Bundles::new(&["a", "b"]);
    let (a, b) = (identity("a"), identity("b"));
    let sides = handshake((&a, tls(&bundles, "a")), (&b, tls(&bundles, "b")), "b").await;
    assert!(matches!(sides, (Ok(()), Ok(()))), "{sides:?}");
    let sides = handshake((&a, None), (&b, None), "b").await;
    assert!(matches!(sides, (Ok(()), Ok(()))), "{sides:?}");
}

#[tokio::test]
async fn both_sides_report_another_authority() {
    let (ours, theirs) = (Bundles::new(&["a", "b"]), Bundles::new(&["a", "b"]));
    let (a, b) = (identity("a"), identity("b"));
    let (dialled, accepted) = handshake((&a, tls(&ours, "a")), (&b, tls(&theirs, "b")), "b").await;
    assert!(matches!(dialled, Err(HandshakeError::OtherAuthority)), "{dialled:?}");
    assert!(matches!(accepted, Err(HandshakeError::CertificateRefused(_))), "{accepted:?}");

    // Only the dialler trusts the other side: it learns that its own certificate is refused.
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("ca.pem");
    let mut authorities = std::fs::read(ours.files("a").authority).unwrap();
    authorities.extend(std::fs::read(theirs.files("a").authority).unwrap());
    std::fs::write(&both, authorities).unwrap();
    let files = TlsFiles { authority: both, ..ours.files("a") };
    let trusting = Some(Certificates::load(files, name("a")).unwrap().current());
    let (dialled, accepted) = handshake((&a, trusting), (&b, tls(&theirs, "b")), "b").await;
    assert!(matches!(dialled, Err(HandshakeError::CertificateRefused(_))), "{dialled:?}");
    assert!(matches!(accepted, Err(HandshakeError::OtherAuthority)), "{accepted:?}");
}

#[tokio::test]
async fn both_sides_report_a_certificate_for_another_name() {
    let bundles = Bundles::new(&["a", "b", "c"]);
    let (a, b) = (identity("a"), identity("b"));
    // The address of b leads to c.
    let c = (&identity("c"), tls(&bundles, "c"));
    let (dialled, accepted) = handshake((&a, tls(&bundles, "a")), c, "b").await;
    assert!(matches!(dialled, Err(HandshakeError::OtherName(node)) if node == name("b")));
    assert!(matches!(accepted, Err(HandshakeError::CertificateRefused(_))), "{accepted:?}");
    // A node claims to be a, with the certificate of c.
    let sides = handshake((&a, tls(&bundles, "c")), (&b, tls(&bundles, "b")), "b").await;
    assert_refused(sides, Refusal::OtherCertificate("a".to_owned()));
}

fn assert_refused((dialled, accepted): Sides, refusal: Refusal) {
    assert!(matches!(&dialled, Err(HandshakeError::RefusedByPeer(it)) if *it == refusal));
    assert!(matches!(&accepted, Err(HandshakeError::Refused(it)) if *it == refusal));
}

#[tokio::test]
async fn tls_on_one_side_only_is_reported() {
    let bundles = Bundles::new(&["a", "b"]);
    let (a, b) = (identity("a"), identity("b"));
    let (dialled, accepted) = handshake((&a, None), (&b, tls(&bundles, "b")), "b").await;
    assert!(matches!(dialled, Err(HandshakeError::NotForebay | HandshakeError::Closed)));
    assert!(matches!(accepted, Err(HandshakeError::NotForebay)), "{accepted:?}");
    let (dialled, accepted) = handshake((&a, tls(&bundles, "a")), (&b, None), "b").await;
    assert!(matches!(dialled, Err(HandshakeError::NotForebay | HandshakeError::Closed)));
    assert!(matches!(accepted, Err(HandshakeError::NotForebay)), "{accepted:?}");
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let (a, b) = (identity("a"), Identity { cluster: 2, ..identity("b") });
    assert_refused(handshake((&a, None), (&b, None), "b").await, Refusal::OtherCluster);
}

#[tokio::test]
async fn an_address_of_another_node_is_refused_by_the_dialler() {
    let (a, c) = (identity("a"), identity("c"));
    let (dialled, accepted) = handshake((&a, None), (&c, None), "b").await;
    let refusal = Refusal::OtherNode("c".to_owned());
    assert!(matches!(&dialled, Err(HandshakeError::Refused(it)) if *it == refusal));
    assert!(matches!(&accepted, Err(HandshakeError::RefusedByPeer(it)) if *it == refusal));
}

#[tokio::test]
async fn a_newer_protocol_is_refused_with_the_supported_versions() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut here, there) = tokio::io::duplex(1 << 10);
    let hello = b"\0\0\0\x0cFBN\x01\0\x02\0\x07new.";
    let b = identity("b");
    let accepted = handshake::accept(Box::new(there), None, &b, |_, _| Ok(()));
    let talk = async {
        here.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        here.read_to_end(&mut answer).await.unwrap();
        crate::wire::hello::Reply::decode(Bytes::from(answer).slice(4..)).unwrap()
    };
    let (accepted, answer) = tokio::join!(accepted, talk);
    let theirs = Refusal::Protocol { oldest: 2, newest: 7 };
    assert!(matches!(accepted, Err(HandshakeError::Refused(it)) if it == theirs));
    let ours = Refusal::Protocol { oldest: crate::PROTOCOL, newest: crate::PROTOCOL };
    assert_eq!(answer, crate::wire::hello::Reply::Refused(ours));
}

/// Sends a request to `b` as a node of this identity; returns the error.
async fn refused_as(me: Identity, b: &Net) -> String {
    let a = Net::start(Config { identity: me, listen: None, ..config("a") }).await.unwrap();
    a.add_peer(&name("b"), Some(&address(b))).unwrap();
    match soon("an answer", a.request(&name("b"), Bytes::new(), TIMEOUT)).await {
        Err(RequestError::Unreachable(why)) => {
            assert!(!a.refused().is_empty(), "it is kept for the status");
            why
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_that_share_a_name_or_a_disk_are_refused_by_their_peers() {
    let b = start("b").await;
    let first =
        Net::start(Config { identity: Identity { boot: 5, ..identity("a") }, ..config("a") });
    let first = first.await.unwrap();
    first.add_peer(&name("b"), Some(&address(&b))).unwrap();
    soon("an answer", first.request(&name("b"), Bytes::new(), TIMEOUT)).await.unwrap();

    let other_disk = Identity { storage: 99, ..identity("a") };
    assert!(refused_as(other_disk, &b).await.contains("another node called a"));
    let older = Identity { boot: 4, ..identity("a") };
    assert!(refused_as(older, &b).await.contains("a later start of the data directory"));
    let copied = Identity { boot: 5, nonce: 8, ..identity("a") };
    assert!(refused_as(copied, &b).await.contains("one of the two is a copy"));
    let same = Identity { name: name("b"), ..identity("b-too") };
    let namesake = Net::start(Config { identity: same, ..config("b") }).await.unwrap();
    assert_eq!(
        namesake.add_peer(&name("b"), Some(&address(&b))),
        Err(Refusal::SameName("b".to_owned()))
    );
    soon("an answer", first.request(&name("b"), Bytes::new(), TIMEOUT)).await.unwrap();
    assert!(b.refused().iter().any(|one| one.why.contains("another node called a")));
}

#[tokio::test]
async fn the_application_may_refuse_a_node() {
    let service = Arc::new(TestService { refuses: Some("a".to_owned()), ..TestService::default() });
    let b = Net::start(Config { service, ..config("b") }).await.unwrap();
    let why = refused_as(identity("a"), &b).await;
    assert!(why.contains("a was removed"), "{why}");
}

#[tokio::test]
async fn without_tls_only_loopback_is_used() {
    let everywhere = Config { listen: Some("0.0.0.0:0".to_owned()), ..config("a") };
    let error = Net::start(everywhere).await.err().unwrap();
    assert!(matches!(error, StartError::NotLoopback(_)), "{error}");
    let a = start("a").await;
    a.add_peer(&name("b"), Some("192.0.2.1:7")).unwrap();
    let asked = soon("an answer", a.request(&name("b"), Bytes::new(), TIMEOUT)).await;
    let Err(RequestError::Unreachable(why)) = asked else { panic!("{asked:?}") };
    assert!(why.contains("without TLS only loopback"), "{why}");
    assert!(matches!(
        Net::start(Config { listen: Some(address(&a)), ..config("c") }).await,
        Err(StartError::Listen { .. })
    ));
}

#[tokio::test]
async fn certificates_reload_without_a_restart() {
    let (bundles, others) = (Bundles::new(&["a", "b"]), Bundles::new(&["a", "b"]));
    let (a, b) = (bundles.start("a").await, bundles.start("b").await);
    connect_peers(&a, &b);
    let (of_a, of_b) = (a.group(1).unwrap(), b.group(1).unwrap());
    of_a.add_peer(&name("b")).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    let first = session(&of_a, "b").await;
    assert!((88..=90).contains(&a.certificate().unwrap().days_left));

    // Both nodes switch to another authority: existing connections continue.
    for node in ["a", "b"] {
        let (used, new) = (bundles.files(node), others.files(node));
        std::fs::copy(&new.authority, &used.authority).unwrap();
        std::fs::copy(&new.certificate, &used.certificate).unwrap();
        std::fs::copy(&new.key, &used.key).unwrap();
    }
    a.reload_certificates().unwrap();
    assert_eq!(of_a.send(&name("b"), first, Bytes::from_static(b"x")), Ok(()));
    assert_eq!(message(&of_b).await.1, "x");
    // A new connection uses it: b still has the old one, so the handshake fails and says why.
    let asked = soon("an answer", a.request(&name("b"), Bytes::new(), TIMEOUT)).await;
    let Err(RequestError::Unreachable(why)) = asked else { panic!("{asked:?}") };
    assert!(why.contains("was not issued by an authority"), "{why}");
    b.reload_certificates().unwrap();
    let answered = async {
        while a.request(&name("b"), Bytes::new(), TIMEOUT).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("an answer over the new certificates", answered).await;

    std::fs::write(bundles.files("a").key, "no key").unwrap();
    a.reload_certificates().unwrap_err();
    assert!(a.certificate().unwrap().reload_error.is_some());
    assert_eq!(of_a.send(&name("b"), first + 1, Bytes::new()), Err(NotSent::NoSession));
}

#[tokio::test]
async fn changed_certificate_files_are_reloaded() {
    let (bundles, longer) = (Bundles::new(&["a"]), tempfile::tempdir().unwrap());
    init_tls(longer.path(), &[name("a")], 300).unwrap();
    let limits = Limits { certificate_check_interval: Duration::from_millis(10), ..limits() };
    let tls = Some(bundles.files("a"));
    let a = Net::start(Config { tls, limits, ..config("a") }).await.unwrap();
    let (used, new) = (bundles.files("a"), TlsFiles::in_directory(&longer.path().join("a")));
    for (from, to) in
        [(new.authority, used.authority), (new.certificate, used.certificate), (new.key, used.key)]
    {
        std::fs::copy(from, to).unwrap();
    }
    until("the new certificate", || a.certificate().unwrap().days_left > 290).await;
    until("no error", || a.certificate().unwrap().reload_error.is_none()).await;
}
