// Package audit writes who did what: one JSON object a line for each call, to a
// file that is rotated or to a stream such as stderr, which under systemd is the
// journal.
//
// What looks like a secret is left out: the values of environment variables
// always, and of arguments what follows words such as --password. That is a help,
// not a promise: a program can take a secret in any argument.
package audit
