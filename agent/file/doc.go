// Package file is the guest's side of guest.v1.FileService: it works with files
// for callers on the host, each call as the user that it names.
//
// A call as another user runs on a thread of its own, whose credentials were
// changed for good before it touches a file, and which ends with the call. So
// the kernel decides what the user may, and what is made belongs to the user from
// the beginning. Only an agent that is root can do that.
//
// With Config.Root, paths are resolved beneath that directory, and no link leads
// out of it. Without it they are what they are to every process of the guest.
package file
