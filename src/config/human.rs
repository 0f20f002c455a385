//! Values as people write them: durations, sizes, ranges, permission bits, addresses. Text in, value or advice out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;

use crate::machine::limits::{Backoff, GiveUp};

use super::tree::clipped;

/// No timer of this program is meant to run longer, and no sum of two such times can overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// `250ms`, `1.5s`, `2m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| {
        let text = clipped(text);
        // Its own texts list a dozen units; people who forget or misspell one need only an example.
        if let humantime::DurationError::UnknownUnit { value, unit, .. } = error
            && unit.is_empty()
        {
            return format!("{text:?} has no unit: write {value}s or {value}ms");
        }
        format!("{text:?} is not a duration: write it like 250ms, 1.5s, 2m or 1h30m")
    })?;
    if time > LONGEST {
        return Err(format!("{:?} is longer than a year", clipped(text)));
    }
    Ok(time)
}

/// `10MiB`, `64kB`, `4096`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bad = |_| format!("{:?} is not a size: write it like 64KiB, 10MiB or 1GB", clipped(text));
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(bad)
}

/// `100ms..30s`, or `1s` for a delay that does not grow.
pub(super) fn backoff(text: &str) -> Result<Backoff, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let bad = |error| format!("{error} (a backoff is written like 100ms..30s)");
    let backoff = Backoff { min: duration(min.trim()).map_err(bad)?, max: duration(max.trim()).map_err(bad)? };
    if backoff.min.is_zero() {
        return Err("a worker that dies at once would be started without a pause: begin with at least 1ms".to_owned());
    }
    if backoff.min > backoff.max {
        return Err(format!("{:?} begins with the longer time: write {}..{}", clipped(text), max.trim(), min.trim()));
    }
    Ok(backoff)
}

/// `10 in 60s`.
pub(super) fn give_up(text: &str) -> Result<GiveUp, String> {
    let advice = || format!("{:?} is not a limit of failures: write it like 10 in 60s", clipped(text));
    let (failures, within) = text.split_once(" in ").ok_or_else(advice)?;
    let failures = failures.trim().parse().map_err(|_| advice())?;
    let within = duration(within.trim())?;
    if failures == 0 || within.is_zero() {
        return Err(format!("{:?} gives up before the first failure: both numbers must be more than 0", clipped(text)));
    }
    Ok(GiveUp { failures, within })
}

/// `200` or `200-399`: inclusive.
pub(super) fn statuses(text: &str) -> Result<(u16, u16), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(format!("{:?} is not a range of HTTP statuses: write 200 or 200-399", clipped(text))),
    }
}

/// `0660`: octal, with or without leading `0` or `0o`.
pub(super) fn permissions(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let bits = u32::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| format!("{:?} is not a file mode: write three octal digits, like 0660", clipped(text)))
}

/// Where a listener listens, as far as its address alone says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp(SocketAddr),
    /// As written: may be relative.
    Unix(String),
    Abstract(String),
}

/// `8080`, `:8080`, `0.0.0.0:8080`, `[::]:8080`, `localhost:8080`, `unix:/path`, `unix:@name`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Some(rest) = text.strip_prefix("unix:") {
        return unix(rest);
    }
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Ok(Endpoint::Tcp(at));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let advice = |why: &str| {
        let text = clipped(text);
        format!("{text:?} is not an address: {why}")
    };
    // `u16::from_str` takes "+80".
    let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = match port.parse::<u16>() {
        Ok(port) if is_number => port,
        _ if is_number => return Err(advice("a port is at most 65535")),
        _ => return Err(advice("write 8080, 127.0.0.1:8080, [::]:8080, unix:/path or unix:@name")),
    };
    let ip = match host {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        "*" => return Err(advice("write 0.0.0.0 for all IPv4 addresses, [::] for all of both kinds")),
        _ if host.contains(':') => return Err(advice("put brackets around an IPv6 address, like [::1]:8080")),
        _ => return Err(advice("names are not looked up; write the IP address")),
    };
    Ok(Endpoint::Tcp(SocketAddr::new(ip, port)))
}

/// `sun_path` holds 108 bytes, the last of a path being NUL (unix(7)).
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

fn unix(rest: &str) -> Result<Endpoint, String> {
    let name = rest.strip_prefix('@');
    if rest.is_empty() || name == Some("") {
        return Err("a Unix socket needs a path (unix:/run/web.sock) or a name (unix:@web)".to_owned());
    }
    if rest.contains('\0') {
        return Err("a Unix socket's path or name cannot contain NUL".to_owned());
    }
    if rest.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "a Unix socket's path or name has at most {LONGEST_SOCKET_PATH} bytes, this has {}",
            rest.len()
        ));
    }
    Ok(match name {
        Some(name) => Endpoint::Abstract(name.to_owned()),
        None => Endpoint::Unix(rest.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Result<Duration, String> {
        Ok(Duration::from_millis(millis))
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("250ms"), millis(250));
        assert_eq!(duration("1.5s"), millis(1500));
        assert_eq!(duration("2m"), millis(120_000));
        assert_eq!(duration("1h30m"), millis(5_400_000));
        assert_eq!(duration("0s"), millis(0));
        assert_eq!(duration("30"), Err(r#""30" has no unit: write 30s or 30ms"#.to_owned()));
        for bad in ["", "soon", "-1s", "1 parsec", "1e9s", "99999999999999999999s", "2years"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("64 kB"), Ok(64_000));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("big").is_err() && size("-1MiB").is_err() && size("").is_err());
    }

    #[test]
    fn a_backoff_grows_and_never_spins() {
        let of = |min, max| Backoff { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        assert_eq!(backoff("100ms..30s"), Ok(of(100, 30_000)));
        assert_eq!(backoff("1s .. 2s"), Ok(of(1000, 2000)));
        assert_eq!(backoff("1s"), Ok(of(1000, 1000)));
        assert!(backoff("30s..100ms").unwrap_err().ends_with("write 100ms..30s"));
        assert!(backoff("0s..1s").is_err() && backoff("..").is_err() && backoff("1s..2s..3s").is_err());
    }

    #[test]
    fn give_up_is_a_number_in_a_time() {
        assert_eq!(give_up("10 in 60s"), Ok(GiveUp { failures: 10, within: Duration::from_secs(60) }));
        for bad in ["10", "0 in 60s", "10 in 0s", "-1 in 3s", "ten in 60s", "10 in 60"] {
            assert!(give_up(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn statuses_and_permissions() {
        assert_eq!(statuses("200-399"), Ok((200, 399)));
        assert_eq!(statuses("204"), Ok((204, 204)));
        assert!(["399-200", "99", "600", "2xx", "200-", ""].iter().all(|bad| statuses(bad).is_err()));
        assert_eq!(permissions("0660"), Ok(0o660));
        assert_eq!(permissions("0o600"), Ok(0o600));
        assert!(["0888", "1777", "rw", ""].iter().all(|bad| permissions(bad).is_err()));
    }

    #[test]
    fn addresses_in_all_their_spellings() {
        let tcp = |text: &str| Ok(Endpoint::Tcp(text.parse().expect("an address")));
        assert_eq!(endpoint("8080"), tcp("0.0.0.0:8080"));
        assert_eq!(endpoint(":8080"), tcp("0.0.0.0:8080"));
        assert_eq!(endpoint("[::]:8080"), tcp("[::]:8080"));
        assert_eq!(endpoint("localhost:0"), tcp("127.0.0.1:0"));
        assert_eq!(endpoint("unix:/run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".to_owned())));
        assert_eq!(endpoint("unix:@x"), Ok(Endpoint::Abstract("x".to_owned())));
        for (bad, advice) in [
            ("80800", "at most 65535"),
            ("+80", "write 8080"),
            ("", "write 8080"),
            ("::1:80", "brackets"),
            ("example.org:80", "not looked up"),
            ("*:80", "0.0.0.0"),
            ("http://x", "write 8080"),
            ("unix:", "needs a path"),
            ("unix:@", "needs a path"),
        ] {
            let error = endpoint(bad).expect_err(bad);
            assert!(error.contains(advice), "{bad:?}: {error}");
        }
        assert!(endpoint(&format!("unix:/{}", "x".repeat(107))).is_err());
    }
}
