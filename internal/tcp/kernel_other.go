//go:build !linux || 386 || s390x

package tcp

func (k *kernel) set(Options) {}

func (k *kernel) Acked() (int64, error) { return 0, errNoCount }

func (k *kernel) Queued() (unsent, unacked int64, err error) { return 0, 0, errNoCount }

func (k *kernel) Room() (int64, error) { return 0, errNoCount }

func (k *kernel) Takes() (Space, error) { return Space{}, errNoCount }

func (k *kernel) Established() bool { return false }

func (k *kernel) HangUp() error { return errNoCount }
