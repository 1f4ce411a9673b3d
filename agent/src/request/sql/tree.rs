//! What hangs under each node of PostgreSQL's parse tree: every kind is named, so that nothing is walked past unseen.

use pg_query::NodeRef;
use pg_query::protobuf as pb;

/// Whether this version knows a kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Known {
    /// Its children were all pushed.
    Yes,
    /// The raw parser never makes it, so we have no idea what it would mean.
    No,
}

/// A field that may hold nodes.
trait Field {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>);
}

impl Field for pb::Node {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        out.extend(self.node.as_ref().map(|kind| kind.to_ref()));
    }
}

impl<T: Field> Field for Box<T> {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        (**self).push(out);
    }
}

impl<T: Field> Field for Option<T> {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        if let Some(field) = self {
            field.push(out);
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        for field in self {
            field.push(out);
        }
    }
}

/// Nodes that stand in a field of their own type rather than of type `Node`.
macro_rules! parts {
    ($($part:ident)*) => {
        $(impl Field for pb::$part {
            fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
                out.push(NodeRef::$part(self));
            }
        })*
    };
}

parts! {
    Alias CollateClause CreateStmt FuncCall GrantStmt InferClause IntoClause JsonAggConstructor
    JsonBehavior JsonFormat JsonKeyValue JsonOutput JsonReturning JsonTablePathSpec JsonValueExpr
    ObjectWithArgs OnConflictClause PartitionBoundSpec PartitionSpec PublicationTable RangeVar
    ReturningClause RoleSpec SelectStmt String TypeName VariableSetStmt WindowDef WithClause
}

impl Field for pb::CteSearchClause {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        out.push(NodeRef::CtesearchClause(self));
    }
}

impl Field for pb::CteCycleClause {
    fn push<'a>(&'a self, out: &mut Vec<NodeRef<'a>>) {
        out.push(NodeRef::CtecycleClause(self));
    }
}

/// The table: kinds without children, kinds the raw parser never makes, then each kind with its fields that hold nodes.
macro_rules! table {
    (leaves: $($leaf:ident)+; foreign: $($foreign:ident)+; $($kind:ident: $($field:ident)+;)*) => {
        /// Pushes the direct children of `node`, of every kind, onto `out`.
        pub(super) fn children<'a>(node: NodeRef<'a>, out: &mut Vec<NodeRef<'a>>) -> Known {
            match node {
                $(NodeRef::$kind(n) => {
                    $(n.$field.push(out);)+
                    Known::Yes
                })*
                $(NodeRef::$leaf(_) => Known::Yes,)+
                $(NodeRef::$foreign(_) => Known::No,)+
            }
        }
    };
}

// INVARIANT: the match above has no wildcard, so a parser with a new kind of node does not compile against this table.
// Left out on purpose: `xpr`, `cooked_*` and other fields that only analysis fills.
table! {
    leaves:
        SqlvalueFunction SetToDefault CurrentOfExpr ClosePortalStmt FetchStmt NotifyStmt ListenStmt
        UnlistenStmt LoadStmt VariableShowStmt DiscardStmt CheckPointStmt DeallocateStmt
        DropTableSpaceStmt AtalterConstraint AlterEventTrigStmt ReplicaIdentityStmt DropSubscriptionStmt
        ParamRef AConst AStar RoleSpec TriggerTransition Integer Float Boolean String BitString
        AlterDatabaseRefreshCollStmt ReturningOption JsonFormat MergeSupportFunc;
    foreign:
        TableFunc Var Param Aggref WindowFunc SubscriptingRef FuncExpr OpExpr DistinctExpr NullIfExpr
        ScalarArrayOpExpr SubPlan AlternativeSubPlan FieldSelect FieldStore RelabelType CoerceViaIo
        ArrayCoerceExpr ConvertRowtypeExpr CollateExpr CaseTestExpr ArrayExpr RowCompareExpr
        CoerceToDomain CoerceToDomainValue NextValueExpr InferenceElem TargetEntry RangeTblRef FromExpr
        OnConflictExpr Query SetOperationStmt RangeTblEntry RangeTblFunction TableSampleClause
        WithCheckOption SortGroupClause WindowClause RowMarkClause InlineCodeBlock CallContext IntList
        OidList MergeAction ReturningExpr PlassignStmt JsonConstructorExpr RtepermissionInfo
        WindowFuncRunCondition JsonExpr JsonTablePath JsonTablePathScan JsonTableSiblingJoin;
    Alias: colnames;
    RangeVar: alias;
    GroupingFunc: args refs;
    NamedArgExpr: arg;
    BoolExpr: args;
    SubLink: testexpr oper_name subselect;
    CaseExpr: arg args defresult;
    CaseWhen: expr result;
    RowExpr: args colnames;
    CoalesceExpr: args;
    MinMaxExpr: args;
    XmlExpr: named_args arg_names args;
    NullTest: arg;
    BooleanTest: arg;
    JoinExpr: larg rarg using_clause join_using_alias quals alias;
    IntoClause: rel col_names options;
    RawStmt: stmt;
    InsertStmt: relation cols select_stmt on_conflict_clause returning_clause with_clause;
    DeleteStmt: relation using_clause where_clause returning_clause with_clause;
    UpdateStmt: relation target_list where_clause from_clause returning_clause with_clause;
    SelectStmt: distinct_clause into_clause target_list from_clause where_clause group_clause
        having_clause window_clause values_lists sort_clause limit_offset limit_count locking_clause
        with_clause larg rarg;
    AlterTableStmt: relation cmds;
    AlterTableCmd: newowner def;
    AlterDomainStmt: type_name def;
    GrantStmt: objects privileges grantees grantor;
    GrantRoleStmt: granted_roles grantee_roles opt grantor;
    AlterDefaultPrivilegesStmt: options action;
    ClusterStmt: relation params;
    CopyStmt: relation query attlist options where_clause;
    CreateStmt: relation table_elts inh_relations partbound partspec of_typename constraints nnconstraints
        options;
    DefineStmt: defnames args definition;
    DropStmt: objects;
    TruncateStmt: relations;
    CommentStmt: object;
    IndexStmt: relation index_params index_including_params options where_clause exclude_op_names;
    CreateFunctionStmt: funcname parameters return_type options sql_body;
    AlterFunctionStmt: func actions;
    DoStmt: args;
    RenameStmt: relation object;
    RuleStmt: relation where_clause actions;
    TransactionStmt: options;
    ViewStmt: view aliases query options;
    CreateDomainStmt: domainname type_name coll_clause constraints;
    CreatedbStmt: options;
    DropdbStmt: options;
    VacuumStmt: options rels;
    ExplainStmt: query options;
    CreateTableAsStmt: query into;
    CreateSeqStmt: sequence options;
    AlterSeqStmt: sequence options;
    VariableSetStmt: args;
    CreateTrigStmt: relation funcname args columns when_clause transition_rels constrrel;
    CreatePlangStmt: plhandler plinline plvalidator;
    CreateRoleStmt: options;
    AlterRoleStmt: role options;
    DropRoleStmt: roles;
    LockStmt: relations;
    ConstraintsSetStmt: constraints;
    ReindexStmt: relation params;
    CreateSchemaStmt: authrole schema_elts;
    AlterDatabaseStmt: options;
    AlterDatabaseSetStmt: setstmt;
    AlterRoleSetStmt: role setstmt;
    CreateConversionStmt: conversion_name func_name;
    CreateCastStmt: sourcetype targettype func;
    CreateOpClassStmt: opclassname opfamilyname datatype items;
    CreateOpFamilyStmt: opfamilyname;
    AlterOpFamilyStmt: opfamilyname items;
    PrepareStmt: argtypes query;
    ExecuteStmt: params;
    DeclareCursorStmt: query;
    CreateTableSpaceStmt: owner options;
    AlterObjectDependsStmt: relation object extname;
    AlterObjectSchemaStmt: relation object;
    AlterOwnerStmt: relation object newowner;
    AlterOperatorStmt: opername options;
    AlterTypeStmt: type_name options;
    DropOwnedStmt: roles;
    ReassignOwnedStmt: roles newrole;
    CompositeTypeStmt: typevar coldeflist;
    CreateEnumStmt: type_name vals;
    CreateRangeStmt: type_name params;
    AlterEnumStmt: type_name;
    AlterTsdictionaryStmt: dictname options;
    AlterTsconfigurationStmt: cfgname tokentype dicts;
    CreateFdwStmt: func_options options;
    AlterFdwStmt: func_options options;
    CreateForeignServerStmt: options;
    AlterForeignServerStmt: options;
    CreateUserMappingStmt: user options;
    AlterUserMappingStmt: user options;
    DropUserMappingStmt: user;
    AlterTableSpaceOptionsStmt: options;
    AlterTableMoveAllStmt: roles;
    SecLabelStmt: object;
    CreateForeignTableStmt: base_stmt options;
    ImportForeignSchemaStmt: table_list options;
    CreateExtensionStmt: options;
    AlterExtensionStmt: options;
    AlterExtensionContentsStmt: object;
    CreateEventTrigStmt: whenclause funcname;
    RefreshMatViewStmt: relation;
    AlterSystemStmt: setstmt;
    CreatePolicyStmt: table roles qual with_check;
    AlterPolicyStmt: table roles qual with_check;
    CreateTransformStmt: type_name fromsql tosql;
    CreateAmStmt: handler_name;
    CreatePublicationStmt: options pubobjects;
    AlterPublicationStmt: options pubobjects;
    CreateSubscriptionStmt: publication options;
    AlterSubscriptionStmt: publication options;
    CreateStatsStmt: defnames stat_types exprs relations;
    AlterCollationStmt: collname;
    CallStmt: funccall outargs;
    AlterStatsStmt: defnames stxstattarget;
    AExpr: name lexpr rexpr;
    ColumnRef: fields;
    FuncCall: funcname args agg_order agg_filter over;
    AIndices: lidx uidx;
    AIndirection: arg indirection;
    AArrayExpr: elements;
    ResTarget: indirection val;
    MultiAssignRef: source;
    TypeCast: arg type_name;
    CollateClause: arg collname;
    SortBy: node use_op;
    WindowDef: partition_clause order_clause start_offset end_offset;
    RangeSubselect: subquery alias;
    RangeFunction: functions alias coldeflist;
    RangeTableSample: relation method args repeatable;
    RangeTableFunc: docexpr rowexpr namespaces columns alias;
    RangeTableFuncCol: type_name colexpr coldefexpr;
    TypeName: names typmods array_bounds;
    ColumnDef: type_name raw_default identity_sequence coll_clause constraints fdwoptions;
    IndexElem: expr collation opclass opclassopts;
    Constraint: raw_expr keys including exclusions options where_clause pktable fk_attrs pk_attrs
        fk_del_set_cols old_conpfeqop;
    DefElem: arg;
    GroupingSet: content;
    ObjectWithArgs: objname objargs objfuncargs;
    AccessPriv: cols;
    CreateOpClassItem: name order_family class_args storedtype;
    TableLikeClause: relation;
    FunctionParameter: arg_type defexpr;
    LockingClause: locked_rels;
    XmlSerialize: expr type_name;
    WithClause: ctes;
    InferClause: index_elems where_clause;
    OnConflictClause: infer target_list where_clause;
    CommonTableExpr: aliascolnames ctequery search_clause cycle_clause ctecolnames ctecoltypes
        ctecoltypmods ctecolcollations;
    PartitionElem: expr collation opclass;
    PartitionSpec: part_params;
    PartitionBoundSpec: listdatums lowerdatums upperdatums;
    PartitionRangeDatum: value;
    PartitionCmd: name bound;
    VacuumRelation: relation va_cols;
    List: items;
    MergeStmt: relation source_relation join_condition merge_when_clauses returning_clause with_clause;
    ReturnStmt: returnval;
    ReturningClause: options exprs;
    StatsElem: expr;
    CtesearchClause: search_col_list;
    CtecycleClause: cycle_col_list cycle_mark_value cycle_mark_default;
    MergeWhenClause: condition target_list values;
    PublicationObjSpec: pubtable;
    PublicationTable: relation where_clause columns;
    JsonReturning: format;
    JsonValueExpr: raw_expr formatted_expr format;
    JsonIsPredicate: expr format;
    JsonOutput: type_name returning;
    JsonKeyValue: key value;
    JsonObjectConstructor: exprs output;
    JsonArrayConstructor: exprs output;
    JsonArrayQueryConstructor: query output format;
    JsonAggConstructor: output agg_filter agg_order over;
    JsonObjectAgg: constructor arg;
    JsonArrayAgg: constructor arg;
    JsonBehavior: expr;
    JsonArgument: val;
    JsonFuncExpr: context_item pathspec passing output on_empty on_error;
    JsonTablePathSpec: string;
    JsonTable: context_item pathspec passing columns on_error alias;
    JsonTableColumn: type_name pathspec format columns on_empty on_error;
    JsonParseExpr: expr output;
    JsonScalarExpr: expr output;
    JsonSerializeExpr: expr output;
}
