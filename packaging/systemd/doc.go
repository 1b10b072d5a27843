// Package systemd holds guest-agent's units, and the test of what they promise.
// docs/guides/systemd.md is about how to use them.
package systemd
