package tcp

// A Space is how much more a connection takes before a write blocks.
type Space struct {
	Memory int64 // of the kernel's
	Unsent int64 // bytes of the stream
}

const (
	// A small segment occupies a struct of the kernel's and a header beside
	// its bytes, 2.3 KB today.
	segmentMemory = 4 << 10
	// What is written at once may go as several segments, or TLS records: of the
	// least size that every network takes, and with what the server and TLS add.
	leastSegment = 512
	addedBytes   = 128
)

// Less returns what is left of s beside n bytes of a response; ok is false if
// they may find no room.
func (s Space) Less(n int) (left Space, ok bool) {
	segments := int64(n)/leastSegment + 1
	bytes := int64(n) + segments*addedBytes
	left = Space{s.Memory - bytes - segments*segmentMemory, s.Unsent - bytes}
	return left, left.Memory > 0 && left.Unsent > 0
}
