// Package grpcurl holds the test in which grpcurl uses an agent that it knows
// nothing of but by reflection.
package grpcurl
