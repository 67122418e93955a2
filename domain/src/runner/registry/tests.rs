use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 86_400_000;

fn certificate(serial: u32) -> Certificate {
    Certificate { serial: format!("{serial:x}"), not_after_ms: 30 * DAY_MS }
}

fn token(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn key(name: &str) -> Digest {
    Digest::of(format!("key of {name}").as_bytes())
}

#[derive(Default)]
struct World {
    registry: Registry,
    events: Vec<Event>,
    now_ms: i64,
}

impl World {
    fn ask(&mut self, request: Request) -> Result<usize, Reject> {
        let events = self.registry.decide(self.now_ms, request)?;
        for event in &events {
            self.registry.apply(event);
        }
        let count = events.len();
        self.events.extend(events);
        Ok(count)
    }

    fn create(&mut self, secret: &str, uses: u32) -> Result<usize, Reject> {
        let labels = Labels::from([("room".to_owned(), "4".to_owned())]);
        let token = token(secret);
        self.ask(Request::CreateToken { token, role: Role::Worker, uses, expires_ms: DAY_MS, labels })
    }

    fn enrol(&mut self, secret: &str, who: &str) -> Result<IdentityId, Reject> {
        let (token, key) = (token(secret), key(who));
        self.ask(Request::Enrol { token, key, name: who.to_owned(), certificate: certificate(1) })?;
        Ok(self.registry.of_key(key).unwrap().clone())
    }

    fn used(&self, secret: &str) -> u32 {
        self.registry.token(token(secret)).unwrap().used
    }
}

#[test]
fn who_joins_has_the_tokens_role_and_labels() {
    let mut world = World::default();
    world.create("secret", 1).unwrap();
    let id = world.enrol("secret", "gpu-1").unwrap();
    assert!(id.0.starts_with("gpu1-"), "{id}");
    let identity = world.registry.identity(&id).unwrap();
    assert_eq!((identity.role, identity.labels["room"].as_str()), (Role::Worker, "4"));
    assert_eq!((identity.serial.as_str(), identity.not_after_ms), ("1", 30 * DAY_MS));
}

#[test]
fn a_token_with_one_use_lets_one_key_join_however_often_it_asks() {
    let mut world = World::default();
    world.create("secret", 1).unwrap();
    let first = world.enrol("secret", "a").unwrap();
    assert_eq!(world.enrol("secret", "a"), Ok(first));
    assert_eq!(world.used("secret"), 1);
    assert_eq!(world.enrol("secret", "b"), Err(Reject::TokenUsedUp(token("secret"))));
}

#[test]
fn each_kind_of_bad_token_is_refused_in_its_own_words() {
    let mut world = World::default();
    assert_eq!(world.create("none", 0), Err(Reject::NoUses));
    assert_eq!(world.enrol("none", "a"), Err(Reject::UnknownToken));
    world.create("back", 1).unwrap();
    world.ask(Request::RevokeToken { token: token("back") }).unwrap();
    assert_eq!(world.ask(Request::RevokeToken { token: token("back") }), Ok(0));
    assert_eq!(world.enrol("back", "a"), Err(Reject::TokenRevoked(token("back"))));
    world.create("old", 1).unwrap();
    world.now_ms = DAY_MS;
    assert_eq!(world.enrol("old", "a"), Err(Reject::TokenExpired(token("old"))));
}

#[test]
fn a_token_made_twice_is_one_token_and_keeps_its_count() {
    let mut world = World::default();
    world.create("secret", 1).unwrap();
    world.enrol("secret", "a").unwrap();
    assert_eq!(world.create("secret", 5), Ok(0));
    assert_eq!(world.enrol("secret", "b"), Err(Reject::TokenUsedUp(token("secret"))));
}

#[test]
fn who_was_revoked_can_neither_renew_nor_join_again_with_its_key() {
    let mut world = World::default();
    world.create("secret", 9).unwrap();
    let id = world.enrol("secret", "a").unwrap();
    assert_eq!(world.ask(Request::Revoke { identity: id.clone() }), Ok(1));
    assert_eq!(world.ask(Request::Revoke { identity: id.clone() }), Ok(0));
    let renew = Request::Renew { identity: id.clone(), key: key("a"), certificate: certificate(2) };
    assert_eq!(world.ask(renew), Err(Reject::IdentityRevoked(id.clone())));
    assert_eq!(world.enrol("secret", "a"), Err(Reject::IdentityRevoked(id)));
}

#[test]
fn a_certificate_is_renewed_for_the_same_key_only() {
    let mut world = World::default();
    world.create("secret", 1).unwrap();
    let id = world.enrol("secret", "a").unwrap();
    let renew = |key| Request::Renew { identity: id.clone(), key, certificate: certificate(2) };
    world.ask(renew(key("a"))).unwrap();
    assert_eq!(world.registry.identity(&id).unwrap().serial, "2");
    assert_eq!(world.ask(renew(key("b"))), Err(Reject::OtherKey(id.clone())));
    let nobody = IdentityId("nobody".to_owned());
    assert_eq!(world.ask(Request::Revoke { identity: nobody.clone() }), Err(Reject::UnknownIdentity(nobody)));
}

#[test]
fn a_second_token_for_the_same_key_keeps_the_identity() {
    let mut world = World::default();
    world.create("first", 1).unwrap();
    world.create("second", 1).unwrap();
    let id = world.enrol("first", "a").unwrap();
    assert_eq!(world.enrol("second", "a"), Ok(id));
    assert_eq!(world.used("second"), 1);
}

#[test]
fn an_identity_owns_its_own_worker_processes_only() {
    let id = IdentityId::new("gpu-1", key("a"));
    assert!(id.owns(&format!("{id}-77-1f")));
    assert!(!id.owns(&id.0) && !id.owns("gpu1-77-1f") && !id.owns(&format!("{id}9-77-1f")));
    // A name that looks like another identity gets no nearer to it.
    let impostor = IdentityId::new(&id.0, key("b"));
    assert!(!id.owns(&format!("{impostor}-77-1f")), "{impostor}");
}

#[test]
fn events_keep_their_stored_form() {
    let event = crate::runner::event::Event::Registry(Event::TokenRevoked { token: Digest::of(b"") });
    let text = serde_json::to_string(&event).unwrap();
    let hash = Digest::of(b"");
    assert_eq!(text, format!(r#"{{"event":"registry","registry":"token_revoked","token":"{hash}"}}"#));
    assert_eq!(serde_json::from_str::<crate::runner::event::Event>(&text).unwrap(), event);
}

proptest! {
    /// For all sequences of requests: no token is used more often than allowed, and the events
    /// alone give the same registry.
    #[test]
    fn no_order_of_requests_overuses_a_token(steps in prop::collection::vec((0..6u8, 0..3u8, 0..4u8), 1..60)) {
        let mut world = World::default();
        for (what, which, who) in steps {
            let (secret, who) = (format!("t{which}"), format!("w{who}"));
            let identity = world.registry.of_key(key(&who)).cloned().unwrap_or(IdentityId("nobody".to_owned()));
            // What is refused changes nothing, and that is what is looked at.
            let _ = match what {
                0 => world.create(&secret, u32::from(which)),
                1 => world.ask(Request::RevokeToken { token: token(&secret) }),
                2 => world.ask(Request::Revoke { identity }),
                3 => world.ask(Request::Renew { identity, key: key(&who), certificate: certificate(3) }),
                4 => { world.now_ms += DAY_MS / 8; Ok(0) }
                _ => world.enrol(&secret, &who).map(|_| 0),
            };
            for (_, token) in world.registry.tokens() {
                prop_assert!(token.used <= token.uses);
            }
        }
        let mut replayed = Registry::default();
        world.events.iter().for_each(|event| replayed.apply(event));
        prop_assert!(replayed.tokens().eq(world.registry.tokens()));
        prop_assert!(replayed.identities().eq(world.registry.identities()));
    }
}
