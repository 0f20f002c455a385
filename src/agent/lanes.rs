//! Which lane belongs to whom; admission; stragglers; feedback; repair.
