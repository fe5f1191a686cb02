use super::*;

fn heard(node_id: &str, applied: u64) -> Heard<'_> {
    Heard {
        node_id,
        address: "host:1",
        role: Role::Follower,
        priority: 100,
        applied,
        wait: Duration::ZERO,
        zone: "",
        figures: None,
        settings: None,
    }
}

fn ids(nodes: &mut Nodes, now: Instant) -> Vec<String> {
    nodes.list(0, |_| Duration::ZERO, now).into_iter().map(|node| node.id).collect()
}

#[test]
fn nodes_are_listed_by_name_with_how_far_they_are_behind() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    nodes.hear(heard("n2", 40), start);
    nodes.hear(Heard { role: Role::Leader, ..heard("n1", 120) }, start + Duration::from_millis(5));
    nodes.hear(heard("n3", 100), start + Duration::from_millis(12));
    let age = |offset| Duration::from_millis(1000 - offset);
    let listed = nodes.list(100, age, start + Duration::from_millis(12));
    let figures: Vec<_> = listed
        .iter()
        .map(|node| (&node.id[..], node.role, node.applied, node.lag_bytes, node.lag_ms, node.contact_ms))
        .collect();
    // A leader is ahead of the log by what it is writing.
    let expected = [
        ("n1", Role::Leader, 120, 0, 0, 7),
        ("n2", Role::Follower, 40, 60, 960, 12),
        ("n3", Role::Follower, 100, 0, 0, 0),
    ];
    assert_eq!(figures, expected);
}

#[test]
fn what_a_node_said_last_counts() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    nodes.hear(heard("n1", 0), start);
    let later = start + Duration::from_secs(5);
    let priority = 7;
    nodes.hear(Heard { address: "other:2", role: Role::Attaching, priority, ..heard("n1", 9) }, later);
    assert_eq!((nodes.address("n1"), nodes.address("n2")), (Some("other:2"), None));
    let listed = nodes.list(9, |_| Duration::ZERO, later);
    let id = "n1".to_owned();
    let (address, role) = ("other:2".to_owned(), Role::Attaching);
    let expected = NodeStatus {
        id,
        address,
        role,
        priority,
        applied: 9,
        lag_bytes: 0,
        lag_ms: 0,
        contact_ms: 0,
        silent_ms: 0,
        zone: String::new(),
        figures: None,
        differences: Vec::new(),
    };
    assert_eq!(listed, [expected]);
}

#[test]
fn what_one_service_reports_another_shows_as_that_one_does() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    nodes.hear(Heard { wait: Duration::from_millis(100), zone: "z1", ..heard("n1", 40) }, start);
    let figures = Some(NodeFigures { lag_ms: 17, ..NodeFigures::default() });
    nodes.hear(Heard { role: Role::Leader, figures, ..heard("n2", 90) }, start + Duration::from_millis(30));
    let later = start + Duration::from_millis(250);
    let mut others = Nodes::default();
    others.hear(heard("gone", 0), start);
    let told = serde_json::to_string(&nodes.report(later)).expect("serializes");
    others.take_report(serde_json::from_str(&told).expect("parses"), later);
    let age = |_| Duration::from_secs(1);
    assert_eq!(others.list(100, age, later), nodes.list(100, age, later));
    assert_eq!(others.list(100, age, later)[1].figures, figures);
    let later_still = later + Duration::from_millis(80);
    assert_eq!(others.figures("n2", later_still), figures.map(|it| (it, Duration::from_millis(300))));
    assert_eq!((others.figures("n1", later), others.figures("gone", later)), (None, None));
    assert_eq!((others.zone("n1"), others.zone("n2"), others.zone("gone")), ("z1", "", ""));
}

#[test]
fn a_node_is_not_silent_as_long_as_its_poll_may_wait() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    nodes.hear(Heard { wait: Duration::from_secs(5), ..heard("n1", 0) }, start);
    let mut after = |ms| {
        let listed = nodes.list(0, |_| Duration::ZERO, start + Duration::from_millis(ms));
        (listed[0].contact_ms, listed[0].silent_ms)
    };
    assert_eq!((after(5000), after(5001)), ((5000, 0), (5001, 1)));
}

#[test]
fn a_node_is_forgotten_after_an_hour_without_contact() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    nodes.hear(heard("n1", 0), start);
    nodes.hear(heard("n2", 0), start + Duration::from_secs(1));
    assert_eq!(ids(&mut nodes, start + FORGET_AFTER - Duration::from_millis(1)), ["n1", "n2"]);
    assert_eq!(ids(&mut nodes, start + FORGET_AFTER), ["n2"]);
    nodes.hear(heard("n3", 0), start + FORGET_AFTER * 2);
    assert_eq!(nodes.0.len(), 1, "also if nobody looks");
}

#[test]
fn one_too_many_takes_the_place_of_the_most_silent_one() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    let name = |number: usize| format!("n{number:02}");
    for number in 0..MAX_NODES {
        nodes.hear(heard(&name(number), 0), start + Duration::from_millis(number as u64));
    }
    let later = start + Duration::from_secs(1);
    nodes.hear(heard(&name(0), 0), later);
    assert_eq!(nodes.0.len(), MAX_NODES, "it is known already");
    nodes.hear(heard("another", 0), later);
    let ids = ids(&mut nodes, later);
    assert_eq!(ids.len(), MAX_NODES);
    assert!(ids.contains(&name(0)) && !ids.contains(&name(1)) && ids.contains(&"another".to_owned()));
}

#[test]
fn roles_survive_their_words() {
    for role in [Role::Leader, Role::Follower, Role::Attaching] {
        assert_eq!(Role::from_word(role.word()), Some(role));
    }
    assert_eq!(Role::from_word("Leader"), None);
}

#[test]
fn a_node_that_is_there_is_compared_with_who_leads() {
    let (mut nodes, start) = (Nodes::default(), Instant::now());
    let settings = |text| Some(Arc::new(NodeSettings::parse(text).expect("settings")));
    nodes.hear(Heard { settings: settings("acl=#1,maxmemory=0"), ..heard("n1", 0) }, start);
    nodes.hear(Heard { settings: settings("acl=#1,maxmemory=7"), role: Role::Leader, ..heard("n2", 0) }, start);
    nodes.hear(Heard { settings: settings("acl=#2,maxmemory=7"), ..heard("n3", 0) }, start);
    nodes.hear(heard("n4", 0), start);
    let of = |nodes: &mut Nodes, now| {
        let listed = nodes.list(0, |_| Duration::ZERO, now);
        listed.iter().map(|node| node.differences.iter().map(Difference::text).collect()).collect::<Vec<Vec<_>>>()
    };
    let n1 = vec!["maxmemory ('0', n2 has '7')".to_owned()];
    let none: Vec<String> = Vec::new();
    assert_eq!(of(&mut nodes, start), [n1, none.clone(), vec!["acl".to_owned()], none.clone()]);
    let told = serde_json::to_string(&nodes.report(start)).expect("serializes");
    let mut others = Nodes::default();
    others.take_report(serde_json::from_str(&told).expect("parses"), start);
    assert_eq!(of(&mut others, start), of(&mut nodes, start));

    let later = start + COMPARED_FOR;
    assert!(of(&mut nodes, later).iter().all(Vec::is_empty), "nobody was heard of");
    nodes.hear(Heard { settings: settings("maxmemory=0"), ..heard("n1", 0) }, later);
    nodes.hear(Heard { settings: settings("maxmemory=1"), ..heard("n3", 0) }, later);
    let n3 = vec!["maxmemory ('1', n1 has '0')".to_owned()];
    assert_eq!(of(&mut nodes, later), [none.clone(), none.clone(), n3, none], "nobody leads: with the first");
}
