package flush

// Detaching. A response is
//
//	attached   it ends with its handler
//	detaching  a call of Detach is under way
//	kept       detached where the server does not let go: the handler's return
//	           waits for the end of the response
//	taken      detached, and the connection is ours: floor 1 is a wire
//	released   taken, and the handler has returned
//	over       taken, and ended before the handler has returned
//
// and goes from each to a later one; a Detach that fails goes back to attached.
//
// Invariants, whenever mu is free:
//
//  1. It becomes kept or taken with the baton held, before closing has begun,
//     and once: floor 1 is exchanged then, with no call of it under way.
//  2. While it is detaching the handler's return waits, as the server hands over
//     no connection afterwards.
//  3. From kept on the handler's writer refuses. Whatever comes, comes through
//     the Flusher.
//  4. From kept on a failure ends the response, as does the end of the handler's
//     context: somebody runs endAlone. The handler's context ends with the
//     response.
//  5. The handler's context ends with the server's too, until it is released.
//  6. The connection of a taken one is not closed before the response has ended;
//     it is closed by who ended it. The files of its request and its context go
//     when it has ended and the handler has returned, whichever comes last.
type detachState uint8

const (
	attached detachState = iota
	detaching
	kept
	taken
	released
	over
)
