package main

import (
	"github.com/fa492104/flush"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the service counts, and, as a collector, what its live
// responses are like when it is asked.
type metrics struct {
	registry      *prometheus.Registry
	live          *flush.Group
	budget        *flush.Budget
	ended         *prometheus.CounterVec
	bytes, missed prometheus.Counter
}

func newMetrics(live *flush.Group) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		live:     live,
		budget:   flush.NewBudget(48<<20, 64<<20),
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "flush_responses_ended_total", Help: "Responses that have ended, by reason."}, []string{"reason"}),
		bytes:    prometheus.NewCounter(prometheus.CounterOpts{Name: "flush_sent_bytes_total", Help: "Body bytes of responses that have ended."}),
		missed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "flush_broadcast_missed_total", Help: "Events that a client had no room for."}),
	}
	m.registry.MustRegister(m, m.ended, m.bytes, m.missed)
	return m
}

var (
	openDesc     = prometheus.NewDesc("flush_responses", "Responses under way.", nil, nil)
	lateDesc     = prometheus.NewDesc("flush_responses_behind", "Responses that hold something for their client.", nil, nil)
	heldDesc     = prometheus.NewDesc("flush_held_bytes", "Bytes held for clients.", nil, nil)
	behindDesc   = prometheus.NewDesc("flush_behind_seconds", "How long the oldest byte held has waited.", nil, nil)
	budgetDesc   = prometheus.NewDesc("flush_budget_held_bytes", "Memory that counts in the budget.", nil, nil)
	abortedDesc  = prometheus.NewDesc("flush_budget_aborted_total", "Responses aborted as the budget was used up.", nil, nil)
	descriptions = []*prometheus.Desc{openDesc, lateDesc, heldDesc, behindDesc, budgetDesc, abortedDesc}
)

// Describe is prometheus.Collector's.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		to <- d
	}
}

// Collect is prometheus.Collector's. It looks at each live response once.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	var open, late, held, behind float64
	for f := range m.live.All() {
		open++
		if s := f.Stats(); s.Behind > 0 {
			late++
			held += float64(f.Buffered())
			behind = max(behind, s.Behind.Seconds())
		}
	}
	b := m.budget.Stats()
	for d, v := range map[*prometheus.Desc]float64{openDesc: open, lateDesc: late, heldDesc: held, behindDesc: behind, budgetDesc: float64(b.Held)} {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	to <- prometheus.MustNewConstMetric(abortedDesc, prometheus.CounterValue, float64(b.Aborted))
}
