//! Users by their names.

use std::io;

use nix::errno::Errno;

/// The number of the user of that name, if there is one.
pub fn number(name: &str) -> io::Result<Option<u32>> {
    match nix::unistd::User::from_name(name) {
        Ok(user) => Ok(user.map(|user| user.uid.as_raw())),
        // Each of these may mean that there is none (getpwnam(3)).
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name() {
        assert_eq!(number("root").unwrap(), Some(0));
        assert_eq!(number("no-such-user-here").unwrap(), None);
    }
}
