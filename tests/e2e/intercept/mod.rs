//! The kernel side against real sockets: what is redirected, what is refused, and what survives the daemon.

mod life;
mod origin;
mod question;
mod redirect;
mod refuse;
mod sandbox;
