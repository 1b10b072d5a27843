// Package buf says who owns a buffer, and recycles those that nobody owns.
//
// # The rules
//
//  1. A *[]byte from [Pool] has one owner. The owner gives it to another, who is its
//     owner then, or puts it back, once, and does not use it afterwards. An owner that
//     forgets a buffer leaves it to the garbage collector: that is slower, and correct.
//  2. A function that is given an own *[]byte beside a slice becomes its owner in every
//     case, also when it returns an error. The slice lies in own, not always at its
//     beginning. With own nil the slice is good until the function returns, or as long
//     as it says, and whoever needs it longer copies it.
//  3. The bytes of a received frame lie in the connection's read buffer until the next
//     read. The receiver of a stream owns what its queue holds. A message of the
//     application's owns what it was decoded from only if it is a rpc.BytesMessage,
//     by a mem.Buffer; all others are decoded into memory of their own.
//  4. The bytes of a message to send are their sender's. The connection copies them, or
//     reads them where they lie until the send returns, and never longer.
//  5. Nothing here depends on the garbage collector but for speed: there are no
//     finalizers, and no memory is written to that the language says does not change.
package buf
