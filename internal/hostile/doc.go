// Package hostile has guests and hosts that do everything wrong: an Agent that lies
// in every message of every service, and connections that break the rules of
// HTTP/2 and of the native wire. Its tests set them on the real SDK and on the real
// agent, and look at what those take: time, memory, the calls of others. Tests of
// other packages use it too, such as that of what host-ctl prints.
//
// A user of the guest attacks too: an unprivileged uid beside guest-agent as it is
// released, which runs as root and works for that user. Touch is all that such a one
// can try on a process, MountHung a file system of the user's that does not answer.
//
// What a single frame may hold is tested and fuzzed in package rpc, and lies about
// the offsets of sessions in packages guest and agent/process.
package hostile
