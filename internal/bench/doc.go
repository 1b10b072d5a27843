// Command bench measures the native wire of package rpc beside other RPC
// stacks and beside what the socket itself can carry, and says for each row
// of the table of goals whether it is reached.
//
// One binary plays every part. The orchestrator (orchestrate.go) starts for
// each peer a server process and a client process by executing itself, speaks
// to them in JSON over their stdin and stdout (command.go), and joins the two
// by one Unix socket. Nothing is taken from absolute figures: in each round
// all peers run the same scenario one after another, each result is divided
// by the base peer's of the same round, and the median of these ratios counts.
package main
