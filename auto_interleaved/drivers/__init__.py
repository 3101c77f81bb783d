"""Who answers what runs ask: at once, together, without computing, among processes."""
