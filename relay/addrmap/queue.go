package addrmap

import "container/heap"

// queue orders leases: the live ones by their expiry, and the idle ones by that and by how often they were in answers,
// each doubling of which is worth another grace.
type queue []*lease

// first returns the lease that comes first, or nil.
func (q *queue) first() *lease {
	if len(*q) == 0 {
		return nil
	}
	return (*q)[0]
}

func (q *queue) push(l *lease, order int64) {
	l.queue, l.order = q, order
	heap.Push(q, l)
}

func (q *queue) remove(l *lease) {
	heap.Remove(q, l.index)
	l.queue = nil
}

// Len, Less, Swap, Push and Pop implement heap.Interface.

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].order < q[j].order }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	l := x.(*lease)
	l.index = len(*q)
	*q = append(*q, l)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return l
}

var _ heap.Interface = (*queue)(nil)
