package flush

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/fa492104/flush/internal/tcp"
)

// Install sets srv up for this package in one line, before it serves:
//
//   - Handler becomes NewHandler(Handler, opts);
//   - ConnContext is followed by [ConnContext], so that flushes know their
//     connection;
//   - the [Group] of opts, or one of its own, is shut down with the server, so
//     that srv.Shutdown does not wait for streams;
//   - HTTP2.WriteByteTimeout becomes the send timeout if it is zero and opts has
//     a [Budget], whose memory a stuck HTTP/2 connection would keep.
//
// What srv has already goes on working. Server.Shutdown does not wait for what is
// registered with it: to wait for goodbyes, and to bound that, give a Group and
// call its Shutdown before the server's.
//
// Install panics if srv is nil, has been installed before, or serves already.
func Install(srv *http.Server, opts *Options) {
	if srv == nil {
		panic("flush: Install of a nil server")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Group == nil {
		o.Group = new(Group)
	}
	srv.RegisterOnShutdown(func() { o.Group.Shutdown(context.Background()) })
	if serves(srv) {
		panic("flush: Install of a server that serves already")
	}
	if !noteInstalled(srv) {
		panic("flush: Install of a server that has been installed before")
	}
	srv.Handler = NewHandler(srv.Handler, &o)
	srv.ConnContext = chainConnContext(srv.ConnContext)
	if d := o.byteTimeout(srv); d > 0 && o.Budget != nil && (srv.HTTP2 == nil || srv.HTTP2.WriteByteTimeout == 0) {
		var c http.HTTP2Config
		if srv.HTTP2 != nil {
			c = *srv.HTTP2 // which other servers may share
		}
		c.WriteByteTimeout = d
		srv.HTTP2 = &c
	}
}

// chainConnContext returns own with [ConnContext] after it, unless own has made
// the connection known by itself, with options perhaps.
func chainConnContext(own func(context.Context, net.Conn) context.Context) func(context.Context, net.Conn) context.Context {
	if own == nil {
		return ConnContext
	}
	return func(ctx context.Context, c net.Conn) context.Context {
		if ctx = own(ctx, c); tcp.From(ctx) != nil {
			return ctx
		}
		return ConnContext(ctx, c)
	}
}

// byteTimeout is the send timeout of responses of srv: the longest time without
// progress that its connections are worth waiting for; 0: none.
func (o *Options) byteTimeout(srv *http.Server) time.Duration {
	switch {
	case o.SendTimeout != 0:
		return max(o.SendTimeout, 0)
	case srv.WriteTimeout > 0:
		return srv.WriteTimeout
	}
	return defaultSendTimeout
}

// installed are the servers that have been installed and are alive.
var installed struct {
	mu      sync.Mutex
	servers map[weak.Pointer[http.Server]]struct{}
}

// noteInstalled reports whether srv had not been installed.
func noteInstalled(srv *http.Server) bool {
	p := weak.Make(srv)
	installed.mu.Lock()
	defer installed.mu.Unlock()
	if _, ok := installed.servers[p]; ok {
		return false
	}
	if installed.servers == nil {
		installed.servers = make(map[weak.Pointer[http.Server]]struct{})
	}
	installed.servers[p] = struct{}{}
	runtime.AddCleanup(srv, func(p weak.Pointer[http.Server]) {
		installed.mu.Lock()
		defer installed.mu.Unlock()
		delete(installed.servers, p)
	}, p)
	return true
}

// serves reports whether srv has begun to serve. Nothing exported tells; where
// net/http has no such field any more it says no. RegisterOnShutdown, which the
// caller has called, has locked what guards the field: so a Serve that began
// before is seen.
func serves(srv *http.Server) bool {
	listeners := reflect.ValueOf(srv).Elem().FieldByName("listeners")
	return listeners.IsValid() && listeners.Kind() == reflect.Map && listeners.Len() > 0
}
