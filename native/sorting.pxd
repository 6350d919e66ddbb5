# Run-adaptive stable sorting of (keys, row) items, shared by the row sort and the bucket merge.
#
# Rows reach us as a few ascending stretches far more often than at random: late data behind current data, one
# flush behind another.  So existing runs are found first and merged pairwise; only input with many short runs goes
# to std::stable_sort.

from libc.stdint cimport int64_t, uint32_t

cdef extern from * nogil:
    """
    #include <algorithm>
    #include <cstdint>
    #include <new>
    #include <vector>

    namespace tidegauge {

    struct TimedRow {
        int64_t time;
        uint32_t row;
        bool operator<(const TimedRow& other) const { return time < other.time; }
    };

    struct SeriesRow {
        int64_t series;
        int64_t time;
        uint32_t row;
        bool operator<(const SeriesRow& other) const {
            return series < other.series || (series == other.series && time < other.time);
        }
    };

    // Sorts items[0..count) stably; returns 0, or -1 when memory runs out (the items are then in some order).
    template <class Item>
    static int sort_runs(Item* items, size_t count) noexcept {
        const size_t typical_run = 16;
        try {
            std::vector<size_t> bounds;  // starts of the ascending runs, and count
            bounds.push_back(0);
            for (size_t at = 1; at < count; ++at) {
                if (items[at] < items[at - 1]) {
                    if (bounds.size() > 8 + count / typical_run) {
                        std::stable_sort(items, items + count);
                        return 0;
                    }
                    bounds.push_back(at);
                }
            }
            if (bounds.size() == 1) return 0;
            bounds.push_back(count);
            std::vector<Item> spare(count);
            Item* from = items;
            Item* to = spare.data();
            while (bounds.size() > 2) {
                size_t kept = 0;
                size_t run = 0;
                const size_t runs = bounds.size() - 1;
                for (; run + 1 < runs; run += 2) {
                    std::merge(from + bounds[run], from + bounds[run + 1], from + bounds[run + 1],
                               from + bounds[run + 2], to + bounds[run]);
                    bounds[kept++] = bounds[run];
                }
                if (run < runs) {
                    std::copy(from + bounds[run], from + bounds[run + 1], to + bounds[run]);
                    bounds[kept++] = bounds[run];
                }
                bounds[kept++] = count;
                bounds.resize(kept);
                std::swap(from, to);
            }
            if (from != items) std::copy(from, from + count, items);
            return 0;
        } catch (const std::bad_alloc&) {
            return -1;
        }
    }

    // Sorts order[0..count), positions in times, stably by time; returns 0, or -1 when memory runs out.
    static inline int sort_positions(const int64_t* times, uint32_t* order, size_t count) noexcept {
        try {
            std::vector<TimedRow> items(count);
            for (size_t at = 0; at < count; ++at) items[at] = {times[order[at]], order[at]};
            if (sort_runs(items.data(), count) != 0) return -1;
            for (size_t at = 0; at < count; ++at) order[at] = items[at].row;
            return 0;
        } catch (const std::bad_alloc&) {
            return -1;
        }
    }

    }  // namespace tidegauge
    """
    cdef struct SeriesRow "tidegauge::SeriesRow":
        int64_t series
        int64_t time
        uint32_t row

    int sort_positions_by_time "tidegauge::sort_positions" (
        const int64_t* times, uint32_t* order, size_t count
    ) noexcept
    int sort_series_rows "tidegauge::sort_runs<tidegauge::SeriesRow>" (SeriesRow* items, size_t count) noexcept
