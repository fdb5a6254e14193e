package flush

// The baton.
//
// Whoever calls floor 1 holds the baton. There is one, and these are its
// states:
//
//	free      nobody calls floor 1
//	a caller  a goroutine of the handler's works inside a call of the Flusher
//	a carrier a goroutine of ours works; it exists only in this state
//	a filter  nobody calls floor 1, as one runs that may still set headers:
//	          see stack

// takeBatonLocked waits for the baton.
func (p *pipe) takeBatonLocked(begun bool) error {
	if err := p.awaitLocked(begun, nil, func() bool { return !p.held }); err != nil {
		return err
	}
	p.held = true
	return nil
}

// takeBatonBehindLocked is takeBatonLocked for Clean. A Write that has the pen while
// bytes are held is in its middle: those go down before more enter, and Clean comes too
// late.
func (p *pipe) takeBatonBehindLocked(begun bool) error {
	if err := p.awaitLocked(begun, nil, func() bool { return !p.held && (!p.pen || p.q.len == 0) }); err != nil {
		return err
	}
	p.held = true
	return nil
}

// seizeLocked takes the baton if it is free, and reports whether it was.
func (p *pipe) seizeLocked() bool {
	if p.held {
		return false
	}
	p.held = true
	return true
}

// grabBatonLocked is takeBatonLocked for the end of the response: it waits
// however long, and reports whether it has the baton. A failure ends the wait.
func (p *pipe) grabBatonLocked() bool {
	for p.held && p.fail == nil && !p.gone {
		p.waitLocked()
	}
	if p.fail != nil || p.gone {
		return false
	}
	p.held = true
	return true
}

// releaseLocked lets the baton go, or passes it to a carrier.
func (p *pipe) releaseLocked() {
	if !p.wanted && p.dueLocked() && !p.down.callerOnlyLocked() {
		p.startCarrierLocked()
		return
	}
	p.freeLocked()
}

func (p *pipe) freeLocked() {
	p.leaveLocked()
	p.revokeLocked()
	if p.fail != nil {
		p.loseLocked(p.dropLocked())
	}
	p.wakeLocked()
}

// leaveLocked is freeLocked where nobody waits, and nothing is to be dropped.
func (p *pipe) leaveLocked() { p.held = false }

// workLocked takes the free baton for one round on the caller's goroutine.
func (p *pipe) workLocked() {
	p.held = true
	defer p.releaseLocked()
	p.roundLocked()
}

// moveLocked hands down all that has been accepted. The holder calls it.
func (p *pipe) moveLocked() { p.moveAllToLocked(p.accepted) }

// moveAllToLocked hands down what was accepted up to pos, and nothing behind it: what
// comes next passes floor 2 by. A round ends early where somebody waits for a flush,
// and may do no more than that flush.
func (p *pipe) moveAllToLocked(pos int64) {
	p.moveUpToLocked(max(p.moveTo, pos))
	p.roundToLocked(pos)
	for p.sent < pos && p.fail == nil {
		p.roundToLocked(pos)
	}
}

// doDueLocked does all that is due, in as many rounds as that takes, and none for what
// is asked for meanwhile. The holder calls it.
func (p *pipe) doDueLocked() {
	p.noteDueLocked()
	for ask, pos := p.asked.seq, p.moveTo; (p.done < ask || p.sent < pos) && p.fail == nil; {
		p.roundLocked()
	}
}

// kickLocked gives work that is due to a carrier, if the baton is free.
func (p *pipe) kickLocked() {
	if p.claimLocked() {
		go p.carry()
	}
}

// claimLocked takes the baton for a carrier if it is free and work is due. If
// it says so the caller starts p.carry: with mu dropped if it can, as a carrier
// that starts on another thread would meet it and go to sleep.
func (p *pipe) claimLocked() bool {
	if p.held || p.wanted || !p.dueLocked() || p.down.callerOnlyLocked() {
		return false
	}
	p.held = true
	p.readyCarrierLocked()
	return true
}

// carryAsyncLocked has what is due carried in the background, from now on also
// what moves by itself. If later is given, it says that the caller is to start
// the carrier, with mu dropped.
func (p *pipe) carryAsyncLocked(later *bool) {
	p.async = true
	switch {
	case p.held:
	case p.down.callerOnlyLocked():
		p.workLocked()
	case later == nil:
		p.kickLocked()
	default:
		*later = p.claimLocked()
	}
}

// unlockLocked drops mu, and then starts the carrier that carryAsyncLocked has left
// to its caller.
func (p *pipe) unlockLocked(start *bool) {
	p.mu.Unlock()
	if *start {
		go p.carry()
	}
}

// startCarrierLocked hands the baton, which the caller has, to a carrier. It
// may drop mu before.
func (p *pipe) startCarrierLocked() {
	p.readyCarrierLocked()
	go p.carry()
}

func (p *pipe) readyCarrierLocked() {
	p.down.readyLocked()
	if p.carry == nil {
		p.carry = p.carrier
	}
	p.revokeLocked()
	p.quickenLocked() // until it runs, a busy machine may take long
}

// quickenLocked opens the short way of FlushAsync if nothing else must be
// looked at there. Whatever changes that closes it with slowLocked.
func (p *pipe) quickenLocked() {
	p.quick.Store(p.async && p.refuse == nil && p.down.shortAskLocked())
}

// slowLocked closes the short ways of Write and FlushAsync.
func (p *pipe) slowLocked() {
	p.revokeLocked()
	p.quick.Store(false)
}

// carrier is the goroutine that carries in the background. It ends when
// nothing is left to carry. A panic in the server's writer, or in a filter,
// would kill the process here: it is kept for the handler's goroutine.
func (p *pipe) carrier() {
	growStack(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	holds, returned := true, false
	defer func() {
		if !returned {
			v := recover()
			if v == nil {
				v = errGoexit
			}
			p.down.panickedLocked(v)
		}
		if holds {
			p.quick.Store(false)
			p.freeLocked()
		} else {
			p.kickLocked()
		}
	}()
	for {
		for !p.wanted && p.dueLocked() {
			if p.owed && p.down.payableLocked() {
				// A filter may wait for the baton.
				holds = false
				p.layDownLocked()
				p.down.payLocked()
				if p.held || p.wanted {
					returned = true
					return
				}
				holds, p.held = true, true
				continue
			}
			p.roundLocked()
		}
		p.quick.Store(false)
		if p.wanted || !p.dueLocked() {
			break
		}
		p.quickenLocked()
	}
	returned = true
}

// layDownLocked lets the baton go although work may be due: the carrier will
// come back to it.
func (p *pipe) layDownLocked() {
	p.quick.Store(false)
	p.freeLocked()
}

// stackSize is what the server's Write and Flush need of a stack, once the
// headers are out.
const stackSize = 2 << 10

// growStack makes the stack of a new goroutine as large as the server's calls
// need. Left to those, it grows step by step, and each step has to look at every
// frame of a deep stack: more than a third of what a carrier takes for an event.
//
//go:noinline
func growStack(use bool) {
	if use {
		var frame [stackSize]byte
		touch(&frame)
	}
}

//go:noinline
func touch(*[stackSize]byte) {}
