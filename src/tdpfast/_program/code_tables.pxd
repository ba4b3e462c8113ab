"""See code_tables.pyx."""

from tdpfast._sync.cpu cimport RcuHead

cdef void api_rcu_begun(RcuHead *head) noexcept nogil
