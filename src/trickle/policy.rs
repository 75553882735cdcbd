//! Where channels may be: the addresses that a URL given by somebody else may lead to.
//!
//! An address that is written out is judged when the channel is opened, a name when it is resolved, every time, so a name
//! that changes its mind between two look-ups gains nothing. Redirects are not followed at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// A kind of addresses, or some in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Any,
    Public,
    Private,
    Loopback,
    LinkLocal,
    Net(IpNet),
    Host(String),
}

/// Which addresses are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    /// The setting that says so.
    setting: &'static str,
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    Loopback,
    LinkLocal,
    /// Multicast, unspecified, reserved: nothing that a channel could be at.
    Other,
}

impl Policy {
    /// Reads words behind commas: `any`, `public`, `private`, `loopback`, `link-local`, networks such as `10.1.0.0/16`,
    /// addresses, and names of hosts, which are allowed whatever they resolve to.
    ///
    /// # Errors
    /// The word that is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let rules: Vec<Rule> = words.map(rule).collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err("nothing is allowed; say at least one of public, private, loopback, a network or a host".into());
        }
        Ok(Self { rules, setting: "trickle.allow" })
    }

    /// The same for another setting, which refusals name.
    pub fn of(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }

    /// A client of `builder` resolves names to allowed addresses alone. Addresses in URLs are for [`Self::check`].
    pub fn guard(self: &Arc<Self>, builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        builder.dns_resolver(Arc::new(Resolver(self.clone())))
    }

    fn refusal(&self, host: &str) -> String {
        format!("{host} is not among the addresses that {} permits", self.setting)
    }

    /// Whether a channel may be at `url`, as far as the text tells: a name is judged when it is resolved.
    ///
    /// # Errors
    /// What is not allowed, without more of the URL than its host.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        let (name, address) = match url.host() {
            None => return Err("it has no host".into()),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => (address.to_string(), IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => (address.to_string(), IpAddr::V6(address)),
        };
        if self.allows(&name, address) { Ok(()) } else { Err(self.refusal(&name)) }
    }

    /// Whether the host `name` at `address` is allowed.
    fn allows(&self, name: &str, address: IpAddr) -> bool {
        let inner = embedded(address);
        let kind = kind(inner);
        self.rules.iter().any(|rule| match rule {
            Rule::Any => true,
            Rule::Public => kind == Kind::Public,
            Rule::Private => kind == Kind::Private,
            Rule::Loopback => kind == Kind::Loopback,
            Rule::LinkLocal => kind == Kind::LinkLocal,
            Rule::Net(net) => net.contains(&inner) || net.contains(&address),
            Rule::Host(host) => host.eq_ignore_ascii_case(name),
        })
    }
}

fn rule(word: &str) -> Result<Rule, String> {
    let host = |word: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        let named = word.chars().all(fine) && word.chars().any(|c| c.is_ascii_alphabetic());
        if named { Ok(Rule::Host(word.to_owned())) } else { Err(format!("`{word}` is no kind, network or host")) }
    };
    match word {
        "any" => Ok(Rule::Any),
        "public" => Ok(Rule::Public),
        "private" => Ok(Rule::Private),
        "loopback" => Ok(Rule::Loopback),
        "link-local" => Ok(Rule::LinkLocal),
        word => match (word.parse::<IpNet>(), word.parse::<IpAddr>()) {
            (Ok(net), _) => Ok(Rule::Net(net)),
            (_, Ok(address)) => Ok(Rule::Net(address.into())),
            _ => host(word),
        },
    }
}

/// The IPv4 address inside an IPv6 one that only wraps it (mapped, NAT64, 6to4); else the address itself.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let parts = six.segments();
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        _ => address,
    }
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_of_four(address),
        IpAddr::V6(address) => kind_of_six(address),
    }
}

fn kind_of_four(address: Ipv4Addr) -> Kind {
    let [a, b, ..] = address.octets();
    match (a, b) {
        (127, _) => Kind::Loopback,
        (169, 254) => Kind::LinkLocal,
        (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) => Kind::Private,
        (0, _) | (224.., _) | (198, 18..=19) => Kind::Other,
        _ if address.octets()[..3] == [192, 0, 0] => Kind::Other,
        _ => Kind::Public,
    }
}

fn kind_of_six(address: Ipv6Addr) -> Kind {
    let first = address.segments()[0];
    match first {
        _ if address.is_loopback() => Kind::Loopback,
        _ if address.is_unspecified() => Kind::Other,
        0xfe80..=0xfebf => Kind::LinkLocal,
        0xfc00..=0xfdff => Kind::Private,
        0x2000..=0x3fff => Kind::Public,
        _ => Kind::Other,
    }
}

/// Resolves names to the addresses that are allowed.
struct Resolver(Arc<Policy>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found = tokio::net::lookup_host((name, 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| policy.allows(name, address.ip())).collect();
            if allowed.is_empty() {
                return Err(policy.refusal(name).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &str, url: &str) -> bool {
        let policy = Policy::parse(policy).expect("a policy");
        policy.check(&Url::parse(url).expect("a URL")).is_ok()
    }

    #[test]
    fn addresses_in_whatever_spelling() {
        // Address, then the one kind that lets it in; none for addresses that no kind does.
        for (host, kind) in [
            ("8.8.8.8", "public"),
            ("1.2.3.4", "public"),
            ("[2606:4700::1]", "public"),
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
            ("[fd00::1]", "private"),
            ("127.0.0.1", "loopback"),
            ("127.9.9.9", "loopback"),
            ("0x7f000001", "loopback"),
            ("2130706433", "loopback"),
            ("0177.0.0.1", "loopback"),
            ("[::1]", "loopback"),
            ("[::ffff:127.0.0.1]", "loopback"),
            ("[64:ff9b::7f00:1]", "loopback"),
            ("[2002:7f00:1::]", "loopback"),
            ("169.254.169.254", "link-local"),
            ("[fe80::1]", "link-local"),
            ("[::ffff:169.254.169.254]", "link-local"),
            ("0.0.0.0", ""),
            ("[::]", ""),
            ("255.255.255.255", ""),
            ("224.0.0.1", ""),
            ("198.18.0.1", ""),
            ("192.0.0.192", ""),
            ("[ff02::1]", ""),
        ] {
            let url = format!("http://{host}/channel");
            for word in ["public", "private", "loopback", "link-local"] {
                assert_eq!(check(word, &url), word == kind, "{host} and {word}");
            }
            assert!(check("any", &url), "{host}");
        }
        assert!(check("public,private", "http://10.0.0.1/x") && !check("public, private", "http://127.0.0.1/x"));
    }

    #[test]
    fn networks_and_hosts() {
        assert!(check("10.1.0.0/16", "http://10.1.2.3/x") && !check("10.1.0.0/16", "http://10.2.0.1/x"));
        assert!(check("169.254.1.1", "http://169.254.1.1/x") && !check("169.254.1.1", "http://169.254.1.2/x"));
        assert!(check("fd00:1::/32", "http://[fd00:1::5]/x"));
        let policy = Policy::parse("public,trickle.internal").expect("a policy");
        let private = IpAddr::from([10, 0, 0, 1]);
        assert!(policy.allows("Trickle.Internal", private) && !policy.allows("other.internal", private));
        for wrong in ["", " , ", "everything!", "10.0.0.0/99", "http://h", "1.2.3"] {
            assert!(Policy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_name_is_what_it_resolves_to() {
        for (policy, allowed) in [("loopback", true), ("public", false), ("localhost", true)] {
            let policy = Policy::parse(policy).expect("a policy");
            let resolver = Resolver(Arc::new(policy));
            let found = resolver.resolve("localhost".parse().expect("a name")).await;
            assert_eq!(found.is_ok(), allowed, "{allowed}");
        }
    }
}
