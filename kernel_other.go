//go:build !linux || 386 || s390x

package flush

func (k *kernelConn) set(ConnOptions) {}

func (k *kernelConn) acked() (int64, error) { return 0, errNoCount }

func (k *kernelConn) queued() (unsent, unacked int64, err error) { return 0, 0, errNoCount }

func (k *kernelConn) room() (int64, error) { return 0, errNoCount }

func (k *kernelConn) takes() (kernelRoom, error) { return kernelRoom{}, errNoCount }

func (k *kernelConn) established() bool { return false }

func (k *kernelConn) hangUp() error { return errNoCount }
