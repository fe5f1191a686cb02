//! What does not belong together does not come together, and both ends say why.

use super::*;

/// Two services, one of which is not as the other expects. What is in the way of the connection of each to the other.
async fn troubles(a: Setup, b: Setup) -> [String; 2] {
    let nodes = start(vec![hasty(a), hasty(b)]).await;
    let names = [&nodes[1], &nodes[0]].map(|node| node.hello.borrow().name.clone());
    [nodes[0].trouble(&names[0]).await, nodes[1].trouble(&names[1]).await]
}

/// Does not wait long for a connection that never comes.
fn hasty(mut setup: Setup) -> Setup {
    setup.patience.connection = Duration::from_millis(20);
    setup
}

fn assert_says(troubles: &[String], why: &str) {
    for trouble in troubles {
        assert!(trouble.contains(why), "{trouble}");
    }
}

#[tokio::test]
async fn services_with_different_tokens_do_not_say_more() {
    let other = Setup { token: "a token of some lengtH", ..Setup::new("b", 2) };
    let troubles = troubles(Setup::new("a", 1), other).await;
    assert_says(&troubles, "refused by the other end: the --peer-token files differ");
}

#[tokio::test]
async fn services_of_different_clusters_stay_apart() {
    let of = |name, member, cluster| {
        let mut setup = Setup::new(name, member);
        setup.hello.cluster = Some(cluster);
        setup
    };
    assert_says(&troubles(of("a", 1, 7), of("b", 2, 8)).await, "of cluster 000000000000000");
}

#[tokio::test]
async fn services_with_one_member_id_stay_apart() {
    assert_says(&troubles(Setup::new("a", 1), Setup::new("b", 1)).await, "have the same member id");
}

#[tokio::test]
async fn an_address_that_leads_to_another_service_is_noticed() {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let a = hasty(Setup::new("a", 1)).start(to_a, &[peer("c", &address_b)]);
    let _b = Setup::new("b", 2).start(to_b, &[peer("a", &address_a)]);
    assert_says(&[a.trouble("c").await], "the service at that address is b, not c");
}

#[tokio::test]
async fn a_service_that_is_not_among_the_peers_is_refused() {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let _a = Setup::new("a", 1).start(to_a, &[peer("c", &address_b)]);
    let b = hasty(Setup::new("b", 2)).start(to_b, &[peer("a", &address_a)]);
    assert_says(&[b.trouble("a").await], "b is not among the --peers of a");
}

#[tokio::test]
async fn a_second_service_of_one_name_or_id_is_refused_while_the_first_is_there() {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let peers = [peer("a", &address_a), peer("b", &address_b)];
    let a = Setup::new("a", 1).start(to_a, &peers);
    let first = Setup::new("b", 2).start(to_b, &peers);
    a.connected_to(2).await;
    first.connected_to(1).await;
    let other = |setup: Setup| {
        let peers = peers.clone();
        async move { hasty(setup).start(listener().await.0, &peers) }
    };
    let named_alike = other(Setup::new("b", 3)).await;
    assert_says(&[named_alike.trouble("a").await], "is its --name used twice?");
    let started_twice = other(Setup::new("b", 2)).await;
    assert_says(&[started_twice.trouble("a").await], "is it started twice?");
    assert!(a.peers.is_connected(2) && first.peers.is_connected(1));
    drop(first);
    // One of them is the only one now.
    let known = |heard: &mut Heard| (heard.hellos.last()?.member == 3).then_some(());
    drop(started_twice);
    a.ear.until(known).await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_named_with_its_reason() {
    let (to_a, address_a) = listener().await;
    let nobody = listener().await.1;
    let a = hasty(Setup::new("a", 1)).start(to_a, &[peer("a", &address_a), peer("b", &nobody)]);
    assert_says(&[a.trouble("b").await], "peer b cannot be reached: cannot connect: Connection refused");
    assert!(!a.peers.is_connected(2) && a.peers.known().is_empty());
}
