package flush

import (
	"sync"
	"time"
)

// blockSize is what one block of a queue holds. With its four words of
// bookkeeping, and the word that the allocator puts before a large object with
// pointers in it, a block takes exactly [blockMemory], one of the allocator's
// own sizes.
const (
	blockSize   = blockMemory - 40
	blockMemory = 4096
)

// A block is a piece of floor 2. Bytes data[r:w] are held; a holder of the
// baton may read them unlocked while others append behind w.
//
// A large Write opens a long block, which can be handed down by one call of the
// server: in small ones it would cost a call each. What comes behind goes on in it.
type block struct {
	next *block
	r, w int32
	at   time.Duration   // when the first of the bytes held came, as now says; unseen: nobody has looked at the clock
	long *[copySize]byte // nil: they are in data
	data [blockSize]byte
}

// space is the memory of the block.
func (b *block) space() []byte {
	if b.long != nil {
		return b.long[:]
	}
	return b.data[:]
}

func (b *block) held() []byte { return b.space()[b.r:b.w] }

// free is the memory that takes more.
func (b *block) free() []byte { return b.space()[b.w:] }

var blocks = sync.Pool{New: func() any { return new(block) }}

// copySize is how much is copied at once, from a reader or on the way down.
const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// A queue holds the bytes of floor 2 in blocks: memory follows what is held to
// within a block or two, and nothing is copied when it grows, so bytes that are
// being written stay where they are.
// The zero queue is empty and owns no memory; so does one that ran empty, but for
// the block that keepBlock has kept, in which nothing is held then.
type queue struct {
	head, tail *block
	len        int
	blocks     int32

	// credit is how many bytes may be appended to tail, or to a first block,
	// with no further question. See grantLocked.
	credit int32

	// more is when the first byte came that a call of the server under way does not
	// hand down, as now says; noMore while there is none; 0 when there is no call.
	more time.Duration
}

const noMore = -1

// unseen is when bytes came that a kept block has taken in since somebody last looked.
const unseen = 0

// A Write of this size is large: it would take several blocks.
const largeWrite = 16 << 10

// push appends p, all of it, with long in long blocks if it is large.
func push[T []byte | string](q *queue, p T, long bool) {
	q.markMore()
	if long = long && len(p) >= largeWrite; long {
		q.letGo()
	}
	q.len += len(p)
	q.credit = 0
	for len(p) > 0 {
		if q.room() == 0 || q.tail == nil {
			b := newBlock()
			if long && len(p) > blockSize {
				b.long = copyBuffers.Get().(*[copySize]byte)
			}
			q.blocks++
			if q.tail == nil {
				q.head = b
			} else {
				q.tail.next = b
			}
			q.tail = b
		}
		n := copy(q.tail.free(), p)
		q.tail.w += int32(n)
		p = p[n:]
	}
}

// grant sets the credit; charge is what a Write takes of it, and revoke takes all back.
func (q *queue) grant(n int)  { q.credit = int32(max(n, 0)) }
func (q *queue) charge(n int) { q.credit -= int32(n) }
func (q *queue) revoke()      { q.credit = 0 }

// first puts an empty block into an empty queue, for bytes that come now.
func (q *queue) first() *block {
	b := newBlock()
	q.head, q.tail, q.blocks = b, b, 1
	return b
}

// newBlock returns an empty block for bytes that come now.
func newBlock() *block {
	b := blocks.Get().(*block)
	b.at = now()
	return b
}

// front returns the first bytes, at most limit, as they lie in one block.
func (q *queue) front(limit int) []byte {
	if q.head == nil {
		return nil
	}
	p := q.head.held()
	return p[:min(limit, len(p))]
}

// gather copies the first bytes into buf.
func (q *queue) gather(buf []byte) []byte {
	n := 0
	for b := q.head; b != nil && n < len(buf); b = b.next {
		n += copy(buf[n:], b.held())
	}
	return buf[:n]
}

// dropBlock drops all that is held, which is in one block.
func (q *queue) dropBlock() {
	b := q.head
	if b.long != nil {
		copyBuffers.Put(b.long)
	}
	*q = queue{}
	b.giveBack()
}

// keepBlock is dropBlock that keeps the block, for bytes that soon come. It is for a
// stream of events: to the pool and back is a good part of what it costs to hold one,
// and so is the clock. Whoever calls it calls settle soon.
func (q *queue) keepBlock() {
	b := q.head
	b.r, b.w, b.at = 0, 0, unseen
	q.len, q.credit, q.more = 0, 0, 0
}

// see notes that what has come unseen came now.
func (q *queue) see() {
	if q.len > 0 && q.head.at == unseen {
		q.head.at = now()
	}
}

// letGo gives back the block of an empty queue.
func (q *queue) letGo() {
	if q.len == 0 && q.head != nil {
		q.dropBlock()
	}
}

// settle ends what keepBlock has begun.
func (q *queue) settle() {
	q.see()
	q.letGo()
}

// pop drops the first n bytes.
func (q *queue) pop(n int) {
	q.len -= n
	for n > 0 {
		b := q.head
		k := min(n, int(b.w-b.r))
		n -= k
		if b.r += int32(k); b.r < b.w {
			return
		}
		q.head = b.next
		q.blocks--
		if q.head == nil {
			q.tail, q.credit = nil, 0
		}
		if b.long != nil {
			copyBuffers.Put(b.long)
		}
		b.giveBack()
	}
}

// lend notes that a call of the server begins that hands down the first n bytes.
func (q *queue) lend(n int) {
	q.more = noMore
	if n < q.len {
		q.more = now() // a little late
	}
}

// markMore notes when the first byte comes meanwhile. A Write that finds bytes in
// a block does not read the clock, but nothing else may be left of that block.
func (q *queue) markMore() {
	if q.more == noMore {
		q.more = now()
	}
}

// regain drops the first n bytes after that call.
func (q *queue) regain(n int) {
	q.pop(n)
	if q.head != nil && q.head.r > 0 && q.more != noMore {
		q.head.at = q.more
	}
	q.more = 0
}

// behind is how long the oldest byte has been held.
func (q *queue) behind() time.Duration {
	if q.len == 0 {
		return 0
	}
	q.see()
	return max(now()-q.head.at, 1) // 0 says that nothing is held
}

// room is how many bytes the last block takes without another.
func (q *queue) room() int {
	if q.tail == nil {
		return blockSize
	}
	return len(q.tail.free())
}

// dropBehind drops all but the first block, which a call of the server may be
// reading, and returns how many bytes that were.
func (q *queue) dropBehind() int {
	if q.head == q.tail {
		return 0
	}
	behind := queue{head: q.head.next, len: q.len - int(q.head.w-q.head.r)}
	q.head.next, q.tail = nil, q.head
	q.len -= behind.len
	q.blocks, q.credit = 1, 0
	return behind.reset()
}

// reset drops everything and returns how many bytes that were.
func (q *queue) reset() int {
	n := q.len
	for b := q.head; b != nil; {
		next := b.next
		b.giveBack()
		b = next
	}
	*q = queue{}
	return n
}

// giveBack gives b back, but for what is long: after a failure the server may still
// be reading that, see freeCopyLocked.
func (b *block) giveBack() {
	b.next, b.long, b.r, b.w = nil, nil, 0, 0
	blocks.Put(b)
}
