"""Floor 0: types, trees and every check with its wording."""
