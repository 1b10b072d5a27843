// Package foreign holds the tests in which gRPC clients that are not ours, and
// not in Go, use the agent over its own port.
package foreign
