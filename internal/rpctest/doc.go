// Package rpctest checks PROTOCOL.md against package rpc. Its tests play the worked
// examples of the specification, byte by byte, to a real server and a real client;
// break each rule with a must once, on both sides; and send each frame in each state of
// a stream. The peers that they play share no code with package rpc.
package rpctest
