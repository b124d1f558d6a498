"""What the outside world provides to the assets: lake, warehouse, model runtime, tracker."""
