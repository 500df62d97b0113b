//! Linux: FUSE, by way of fuser.
