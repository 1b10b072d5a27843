// Package benchpb is the message and the service that every peer of the
// benchmark implements.
package benchpb

//go:generate ../../../bin/buf generate --template buf.gen.yaml .
