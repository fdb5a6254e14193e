package flush_test

import (
	"context"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// BenchmarkBudget is an event, each of which takes a block and gives it back,
// without a budget and with one, alone and on all processors.
func BenchmarkBudget(b *testing.B) {
	for _, tc := range []struct {
		name   string
		budget *flush.Budget
	}{{"budget=none", nil}, {"budget=shared", flush.NewBudget(48<<20, 64<<20)}} {
		opts := &flush.Options{Budget: tc.budget}
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			f := flush.New(harness.NewTap(true), nil, opts)
			for b.Loop() {
				f.Write(event)
				f.FlushWait(context.Background())
			}
			f.Close()
		})
		b.Run(tc.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				f := flush.New(harness.NewTap(true), nil, opts)
				for pb.Next() {
					f.Write(event)
					f.FlushWait(context.Background())
				}
				f.Close()
			})
		})
	}
}
