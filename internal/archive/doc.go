// Package archive copies trees of files over a stream of messages: those of
// guest.v1.FileService's Upload and Download, whose protocol is described in
// transfer.proto. In an upload the host runs Send and the guest Receive, in a
// download the other way round.
//
// Receive distrusts who sends. It writes beneath the destination alone, through
// os.Root and a directory at a time, so that no name, no link and no race with
// somebody who swaps directories leads out of it. What a file is to hold is
// written to another name beside it first (see tempName) and renamed when it is
// whole: the name always has the old file or the new one.
//
// Both sides keep what they need to go on after a cut: the receiver its
// unfinished files, both the state of the hash of them.
package archive
