// Package forward implements guest.v1.ForwardService: connections that are made
// or accepted inside the guest, and carried to the host on a stream each.
//
// Linux only, as the agent is.
package forward
