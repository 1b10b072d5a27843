// Package rpctest checks PROTOCOL.md against package rpc: its tests play the worked
// examples of the specification, byte by byte, to a real server and a real client.
package rpctest
