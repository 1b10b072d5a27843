// Package sock reads and writes a connection: frames in, batches of frames out.
//
// A [Reader] splits what comes into frames. A [Writer] collects frames and writes them
// in batches, on the goroutines that append them. On Linux both use a [Socket] where
// the connection is one: readv and writev, and a look for data before sleeping. Any
// other net.Conn is used by Read and Write, and its deadlines are not relied on.
//
// # The rules
//
//  1. Only a connection whose own type is known, or which says so of itself, is used
//     through its descriptor (see [Of]): a type that embeds one may encrypt.
//  2. One goroutine at a time uses a Reader, and one at a time writes for a Writer.
//  3. A system call that the scheduler is not told about never blocks, and moves two
//     frames at most, 130 KiB, which takes less than 20 µs.
//  4. Memory that the kernel reads or fills is kept alive, and is not changed or read
//     by others, until the call returns. No pointer is kept as a uintptr.
//  5. Looking for data before sleeping yields to every other goroutine after some
//     looks, and is done only where it has paid off on this connection.
package sock
